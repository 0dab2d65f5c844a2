"""Bounded reading and parsing of untrusted files, with checks of their values' types.

Faults raise ``MalformedError``, a ``ValueError`` with a short message; the reader of each kind of file turns it into an
error with the file's name and a hint.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from taskarith.errors import readable
from taskarith.spec import short

__all__ = [
    "MalformedError",
    "check_fields",
    "check_value",
    "is_count",
    "is_number",
    "open_regular",
    "parse_json",
    "parse_yaml",
    "read_bytes",
    "read_text",
]

LARGEST = 1 << 28
"""Maximum bytes of a JSON or YAML file; the index of a model with 100,000 tensors takes 10 MB."""

_HARMLESS = {float, bool, type(None)}
_SEQUENCES = {list, tuple, set}
_LARGEST_PLAIN = 1 << 63
_DEEPEST = 100
_ODD_NUMBER = re.compile(r"_|:|^[-+]?0[\dbo]")
"""Numbers that YAML reads differently from most people, such as times and octals."""
_MOST = 10_000
"""Maximum values of a YAML file, counting those of an alias at each use."""


class MalformedError(ValueError):
    """A file is not what it should be; the message says what is wrong in a few words."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without blocking on a pipe or device.

    :raises MalformedError: It is not a regular file.
    :raises OSError: It is missing or cannot be read.
    :raises RuntimeError: It is a loop of symbolic links (up to Python 3.12).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MalformedError("it is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, largest: int | None = LARGEST) -> bytes:
    """Read a whole regular file; see ``open_regular``.

    :param path: The file.
    :param largest: Maximum size in bytes; None for no limit.
    :raises MalformedError: It is missing, unreadable, not a regular file, or too large.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if largest is not None and size > largest:
                raise MalformedError(f"it has {size} bytes, more than the {largest} allowed for such a file")
            return file.read()
    except (OSError, RuntimeError) as error:
        raise MalformedError(getattr(error, "strerror", None) or str(error)) from error


def read_text(path: Path, largest: int | None = LARGEST) -> str:
    """Read a whole regular file in UTF-8; see ``read_bytes``.

    :raises MalformedError: As ``read_bytes``, or it is not UTF-8.
    """
    try:
        return read_bytes(path, largest).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"it is not UTF-8 text (byte {error.start})") from error


def parse_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON, refusing values that cannot be used and written again safely; see ``check_value``.

    :param text: The document.
    :param pairs: The ``object_pairs_hook`` of ``json.loads``; by default duplicate keys are refused.
    :raises MalformedError: It is not JSON, or contains such a value.
    """
    try:
        value = json.loads(text, object_pairs_hook=pairs or _once)
    except UnicodeDecodeError as error:
        raise MalformedError(f"it is not UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise MalformedError("it is nested too deeply") from error
    except ValueError as error:
        raise MalformedError(readable(str(error), 300)) from error
    check_value(value)
    return value


def parse_yaml(text: str) -> Any:
    """Parse YAML of plain values.

    :raises MalformedError: It is not YAML, contains such a value, or has too many values, as when aliases multiply.
    """
    import yaml  # late: --help does without it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_depth(yaml.parse(text, loader))
        value = yaml.load(text, _plain(loader))  # noqa: S506 both loaders are safe
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise MalformedError(readable(" ".join(str(error).split()), 300)) from error
    check_value(value, _MOST)
    return value


def _plain(loader: Any) -> Any:
    """Return a loader that refuses duplicate keys and ambiguous numbers.

    In YAML 1.1 ``010`` is 8, ``1:30`` is 90 and ``1_000`` is 1000.
    """

    class Plain(loader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key.value, str) and key.value != "<<"]
            if len(set(keys)) < len(keys):
                _once([(key, None) for _, key in keys])
            return super().construct_mapping(node, deep)

        def construct_scalar(self, node: Any) -> Any:
            text = super().construct_scalar(node)
            is_number = node.tag in {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
            if is_number and isinstance(text, str) and _ODD_NUMBER.search(text):
                raise MalformedError(f"the number {text} is not written in plain digits; if it is a string, quote it")
            return text

    return Plain


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary, refusing duplicate keys: readers disagree on which value counts."""
    values = dict(pairs)
    if len(values) < len(pairs):
        (duplicate, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise MalformedError(f"the key {readable(ascii(duplicate), 80)} occurs twice")
    return values


def _check_depth(events: Any) -> None:
    """Refuse deep nesting before anything recurses into it."""
    depth = 0
    for number, event in enumerate(events):
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if depth > _DEEPEST or number > 2 * _MOST:
            raise MalformedError("it is nested too deeply, or far too long")


def check_value(value: Any, most: int | None = None) -> None:
    """Refuse values that break other programs: deep nesting, lone surrogates, integers beyond the range of floats.

    :param value: What a parser returned.
    :param most: Maximum number of values; one that occurs in several places counts each time.
    :raises MalformedError: It contains such a value.
    """
    level, count = [value], 0
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind in _HARMLESS or (kind is int and -_LARGEST_PLAIN < item < _LARGEST_PLAIN):
                continue
            if kind is dict:
                below += item.keys()
                below += item.values()
            elif kind in _SEQUENCES:
                below += item
            else:
                _check_plain(item)
            if most is not None and count + len(below) > most:
                raise MalformedError(f"it has more than {most} values")
        if not below:
            return
        level, count = below, count + len(below)
    raise MalformedError(f"it is nested more than {_DEEPEST} levels deep")


def _check_plain(value: Any) -> None:
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise MalformedError(
            f"{readable(ascii(value), 80)} contains half of a surrogate pair, which is not Unicode text"
        )
    if type(value) is int and value.bit_length() > 1023:
        raise MalformedError(f"it has an integer of {value.bit_length()} bits, larger than any float")


def is_number(value: object) -> bool:
    """Tell whether a value is a finite number, not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> bool:
    """Tell whether a value is an integer from 0 to 2**63, not a boolean."""
    return type(value) is int and 0 <= value < 1 << 63


def check_fields(values: Mapping[str, Any], kinds: Mapping[str, Callable[[Any], bool]]) -> None:
    """Check the types of values by key; missing and null ones are skipped.

    :param values: A JSON object.
    :param kinds: For each key, a function that tells whether a value has the right type.
    :raises MalformedError: A value has the wrong type; the message names its key.
    """
    for key, fits in kinds.items():
        value = values.get(key)
        if value is not None and not fits(value):
            raise MalformedError(f"'{key}' cannot be {short(value)}")
