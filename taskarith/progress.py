"""How work that never prints tells its caller how far it is."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SILENT", "Listener"]


class Listener(Protocol):
    """Receives progress and remarks; the command line draws them, a library call may ignore them."""

    def progress(self, what: str, done: float, total: float) -> None:
        """Report that ``done`` of ``total`` units of ``what`` are finished; a changed ``what`` is a new bar."""

    def note(self, message: str) -> None:
        """Report one remark of one line that the user should read."""


class _Silent:
    def progress(self, what: str, done: float, total: float) -> None:
        del what, done, total

    def note(self, message: str) -> None:
        del message


SILENT: Listener = _Silent()
