"""The interface through which library code, which never prints, reports progress."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SILENT", "Listener"]


class Listener(Protocol):
    """Receives progress and remarks: the command line shows them, a library call may ignore them."""

    def progress(self, what: str, done: float, total: float) -> None:
        """Report that ``done`` of ``total`` units of ``what`` are finished; a new ``what`` starts a new bar."""

    def note(self, message: str) -> None:
        """Report a one-line remark that the user should read."""


class _Silent:
    def progress(self, what: str, done: float, total: float) -> None:
        del what, done, total

    def note(self, message: str) -> None:
        del message


SILENT: Listener = _Silent()
