"""How every command is called: its groups of options are taken apart, and a failure becomes two lines and a code."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import typer

from taskarith.cli.process import interruptible
from taskarith.errors import TaskarithError, UsageError

__all__ = ["guarded", "show_unprintable"]


_AGAIN = {
    **dict.fromkeys(
        ("apply", "extract", "combine"),
        "The same command starts anew, or goes on with what an earlier run of it has finished.",
    ),
    "finetune": "Nothing of this run is kept.",
}
"""What a command does that was interrupted before it had anything to keep, but not for the first time."""


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command: a failure that a user can act on becomes two lines and its exit code, Ctrl-C 130.

    A parameter that is a dataclass stands for options, one for each of its fields; of ``Annotated[Dataclass, Options]``
    for the fields that the class ``Options`` annotates.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: group for name, hint in hints.items() if (group := _group(hint))}

    @functools.wraps(command)
    def run(**values: Any) -> None:
        try:
            with interruptible():
                _check_folder()
                made = {name: group.make(values) for name, group in groups.items()}
                command(**values, **made)
        except TaskarithError as error:
            _show(type(error)(error.message, " ".join([error.hint, *_notes(error)])))
            raise typer.Exit(error.exit_code) from error
        except OSError as error:  # a path that cannot be read or written, which no verb has named better
            where, what = error.filename or "a file", error.strerror or str(error)
            _show(TaskarithError(f"{where}: {what}", "Check the path, its permissions and the space left."))
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            verb = command.__module__.rpartition(".")[2]
            how = " ".join(_notes(error)) or _AGAIN.get(verb, "The same command starts anew.")
            _show(UsageError("interrupted", f"No unfinished output was published. {how}"))
            raise typer.Exit(130) from error

    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        own = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        parameters += groups[name].parameters if name in groups else [own]
    _hide_variables(parameters)
    wrapper: Any = run
    wrapper.__annotations__ = {one.name: one.annotation for one in parameters}
    wrapper.__signature__ = inspect.Signature(parameters)
    return run


class _Group:
    """A parameter that is a dataclass, whose fields are options.

    :param kind: The dataclass.
    :param options: Names and annotates the fields that are options; it may give them other defaults.
    """

    def __init__(self, kind: Any, options: Any) -> None:
        self._kind = kind
        defaults = {field.name: field.default for field in fields(kind)} | vars(options)
        self.parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_shown(defaults[name]), annotation=hint)
            for name, hint in get_type_hints(options, include_extras=True).items()
        ]

    def make(self, values: dict[str, Any]) -> Any:
        """Take the values of the options out of those of a command, and return the dataclass with them."""
        given = {}
        for parameter in self.parameters:
            value = values.pop(parameter.name)
            for convert in filter(callable, parameter.annotation.__metadata__):
                value = convert(value)
            if value is not None:
                given[parameter.name] = value
        return self._kind(**given)


def _group(hint: Any) -> _Group | None:
    """Return what a parameter of a command stands for, if it is an options dataclass or ``Annotated`` with options."""
    if is_dataclass(hint):
        return _Group(hint, hint)
    kind = getattr(hint, "__origin__", None)
    return _Group(kind, hint.__metadata__[0]) if is_dataclass(kind) else None


def _shown(default: Any) -> Any:
    """Return what an option shows as its default: nothing where it is empty."""
    return None if default in ("", ()) else default


def _check_folder() -> None:
    """Refuse to work in a folder that is gone: no path in it leads anywhere, and libraries end the process."""
    try:
        Path.cwd()
    except OSError as error:
        raise TaskarithError("the current folder is gone", "Change to a folder that exists: cd ~") from error


def show_unprintable(error: OSError) -> None:
    """Say that stdout takes no more, and let the interpreter not try again as it ends."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    _show(TaskarithError(f"cannot print: {error.strerror or error}", "Print into what has space."))


def _notes(error: BaseException) -> list[str]:
    """Return what was noted on an exception's way: what is kept, and how to go on."""
    return list(getattr(error, "__notes__", ()))


def _show(error: TaskarithError) -> None:
    from taskarith.console import Console

    Console().error(error)


def _hide_variables(parameters: list[inspect.Parameter]) -> None:
    """Keep the environment variable of every option out of ``--help``; one sentence of the reference names them all."""
    for parameter in parameters:
        for option in getattr(parameter.annotation, "__metadata__", ()):
            if hasattr(option, "show_envvar"):
                option.show_envvar = False
