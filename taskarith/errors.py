"""The exceptions of taskarith: each says what is wrong, what to do, and how the process exits.

TaskarithError              exit code 1
├── UsageError              exit code 2: the call itself is wrong
├── CheckpointError         a model's files are missing, broken or unsafe
│   └── ReadError           the system could not read them, which says nothing about them
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
    "ReadError",
    "TaskarithError",
    "UsageError",
    "VectorError",
    "escaped_lines",
    "name_some",
    "readable",
]

_LONGEST, _LONGEST_NAME = 1000, 120
"""Characters of a message, and of one of several names in it: what is quoted may come from a stranger's file."""


class TaskarithError(Exception):
    """A failure that a user can act on.

    :param message: What is wrong, with the file or tensor it is about, in one line.
    :param hint: What to do next, in one line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str) -> None:
        self.message, self.hint = readable(message), readable(hint)
        super().__init__(f"{self.message}\n{self.hint}")

    def __reduce__(self) -> tuple[type[TaskarithError], tuple[str, str]]:
        """Let an error travel between processes."""
        return type(self), (self.message, self.hint)


class UsageError(TaskarithError):
    """The call is wrong: an unknown value, a missing operand, a contradiction between options."""

    exit_code = 2


class CheckpointError(TaskarithError):
    """A model's files are missing, broken or unsafe to read."""


class ReadError(CheckpointError):
    """The system could not read a file now; what was done until then is right."""


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
    shown = ", ".join(readable(name, _LONGEST_NAME) for name in names[:limit])
    rest = len(names) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown


def readable(text: str, longest: int = _LONGEST) -> str:
    r"""Return a text as a terminal can show it: cut in the middle, and escaped where it is not made of characters.

    :param text: May quote a file: half characters, control characters and marks that turn the writing direction are
        shown as in ``\x1b``.
    :param longest: About how many characters are left.
    """
    text = _cut(text, longest)
    return _cut(_escaped(text), longest)


def escaped_lines(text: str) -> str:
    r"""Return a text of lines with what is not made of characters as in ``\x1b``; a terminal would act on it."""
    return "\n".join(map(_escaped, text.expandtabs().split("\n")))


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest * 2 // 3]} [...] {text[-longest // 4 :]}"
