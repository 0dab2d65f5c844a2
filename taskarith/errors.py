"""The exceptions of taskarith: each says what is wrong and what to do next, and sets the exit code.

TaskarithError              exit code 1
├── UsageError              exit code 2: the call itself is wrong
├── CheckpointError         a model's files are missing, broken or unsafe
│   └── ReadError           the system could not read them; the files may be fine
├── VectorError             a task vector or adapter is missing, broken or of a kind that cannot be used
├── MismatchError           files are valid, but do not match each other
├── DataError               a data set is missing, empty or of an unknown shape
└── OutputError             the output cannot be written
"""

from __future__ import annotations

import re
import sys
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
    "named_by_id",
    "readable",
]

_MAX_MESSAGE, _MAX_NAME = 1000, 120
"""Maximum characters of a message, and of each name listed in it: it may quote an untrusted file."""

_CACHED = r"/models--([^/\s]+?)--([^/\s]+)/snapshots/([0-9a-f]{40})(?:/([\w./-]*\w))?"


class TaskarithError(Exception):
    """A failure that a user can act on.

    :param message: What is wrong, with the file or tensor it is about, in one line.
    :param hint: What to do next, in one line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str) -> None:
        self.message, self.hint = readable(named_by_id(message)), readable(named_by_id(hint))
        super().__init__(f"{self.message}\n{self.hint}")

    def __reduce__(self) -> tuple[type[TaskarithError], tuple[str, str]]:
        """Make the error picklable, to pass it between processes."""
        return type(self), (self.message, self.hint)


class UsageError(TaskarithError):
    """The call is wrong: an unknown value, a missing operand, a contradiction between options."""

    exit_code = 2


class CheckpointError(TaskarithError):
    """A model's files are missing, broken or unsafe to read."""


class ReadError(CheckpointError):
    """The system could not read a file right now; what was done before is valid."""


class VectorError(TaskarithError):
    """A task vector or adapter is missing, broken, or of a kind that cannot be used."""


class MismatchError(TaskarithError):
    """The files are valid, but they do not match each other."""


class DataError(TaskarithError):
    """A data set is missing, empty, or of an unknown shape."""


class OutputError(TaskarithError):
    """The output cannot be written, or already holds something."""


def name_some(names: Sequence[str], limit: int = 5) -> str:
    """List the first few names and the number of others: ``a, b and 7 more``."""
    shown = ", ".join(readable(name, _MAX_NAME) for name in names[:limit])
    rest = len(names) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown


def named_by_id(text: str) -> str:
    """Name what lies in the hub's cache as users do: ``ORG/NAME@COMMIT`` or ``ORG/NAME@COMMIT:FILE``."""
    constants = sys.modules.get("huggingface_hub.constants")  # nothing is named from its cache before it is imported
    if constants is None or "/models--" not in text:
        return text
    return re.sub(re.escape(constants.HF_HUB_CACHE) + _CACHED, _id, text)


def _id(found: re.Match[str]) -> str:
    return f"{found[1]}/{found[2]}@{found[3]}" + (f":{found[4]}" if found[4] else "")


def readable(text: str, longest: int = _MAX_MESSAGE) -> str:
    r"""Shorten a text in the middle, and escape what is not printable.

    :param text: May quote a file: lone surrogates, control characters and marks that change the writing direction are
        shown as ``\x1b``.
    :param longest: About how many characters to keep.
    """
    text = _cut(text, longest)
    return _cut(_escaped(text), longest)


def escaped_lines(text: str) -> str:
    r"""Escape what is not printable in a text of several lines, as in ``\x1b``: a terminal would act on it."""
    return "\n".join(map(_escaped, text.expandtabs().split("\n")))


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest * 2 // 3]} [...] {text[-longest // 4 :]}"
