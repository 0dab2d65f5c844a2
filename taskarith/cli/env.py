"""The command `env`."""

from __future__ import annotations

from taskarith.cli.options import OutputOptions
from taskarith.cli.output import printable

__all__ = ["command"]


def command(*, output: OutputOptions) -> None:
    """Print versions, devices, memory and folders of this machine.

    Example: taskarith env
    """
    from taskarith.inspection.environment import environment

    found = environment()
    with output.console() as console:
        for name, value in found.items():
            console.line(printable(f"- {name}: {value}"))
        console.result(found)
