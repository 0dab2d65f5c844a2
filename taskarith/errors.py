"""The exceptions of taskarith: each says what is wrong, what to do, and how the process exits.

TaskarithError              exit code 1
├── UsageError              exit code 2: the call itself is wrong
├── CheckpointError         a model's files are missing, broken or unsafe
├── VectorError             a task vector or adapter is missing, broken or of a kind that cannot be used
├── MismatchError           files are sound, but do not fit each other
├── DataError               a data set is missing, empty or of an unknown shape
└── OutputError             the output cannot be written
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CheckpointError",
    "DataError",
    "MismatchError",
    "OutputError",
    "TaskarithError",
    "UsageError",
    "VectorError",
    "name_some",
]


class TaskarithError(Exception):
    """A failure that a user can act on.

    :param message: What is wrong, with the file or tensor it is about, in one line.
    :param hint: What to do next, in one line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}\n{hint}")
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[TaskarithError], tuple[str, str]]:
        """Let an error travel between processes."""
        return type(self), (self.message, self.hint)


class UsageError(TaskarithError):
    """The call is wrong: an unknown value, a missing operand, a contradiction between options."""

    exit_code = 2


class CheckpointError(TaskarithError):
    """A model's files are missing, broken or unsafe to read."""


class VectorError(TaskarithError):
    """A task vector or adapter is missing, broken, or of a kind that cannot be used."""


class MismatchError(TaskarithError):
    """The files are sound, but they do not fit each other."""


class DataError(TaskarithError):
    """A data set is missing, empty, or of an unknown shape."""


class OutputError(TaskarithError):
    """The output cannot be written, or already holds something."""


def name_some(names: Sequence[str], limit: int = 5) -> str:
    """Name the first few of many things and how many there are: ``a, b and 7 more``."""
    shown = ", ".join(names[:limit])
    rest = len(names) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown
