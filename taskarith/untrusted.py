"""Files of strangers: read and parsed within bounds, their values taken by type.

What is wrong is raised as ``MalformedError``, a ``ValueError`` of one short line; each kind of file has one door that
turns it into an error with the file's name and a hint.
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
"""Bytes of a file of JSON or YAML; the index of a model with 100,000 tensors takes 10 MB."""

_HARMLESS = {float, bool, type(None)}
_SEQUENCES = {list, tuple, set}
_LARGEST_PLAIN = 1 << 63
_DEEPEST = 100
_ODD_NUMBER = re.compile(r"_|:|^[-+]?0[\dbo]")
"""Numbers of YAML that few would read as it does; times and addresses among them."""
_MOST = 10_000
"""Values of a YAML file, those of an alias counted each time that it is used."""


class MalformedError(ValueError):
    """A file is not what it should be; the message says what is wrong in a few words."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read it; a pipe or device, which may never end, is not waited for.

    :raises MalformedError: It is something else.
    :raises OSError, RuntimeError: It is missing or cannot be read; RuntimeError: a loop of links, up to Python 3.12.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MalformedError("it is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, largest: int | None = LARGEST) -> bytes:
    """Read a whole regular file; see ``open_regular``.

    :param path: The file.
    :param largest: The most bytes that are read; None for any number.
    :raises MalformedError: It is missing, unreadable, something else than a file, or too large.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if largest is not None and size > largest:
                raise MalformedError(f"it has {size} bytes, more than the {largest} that such a file may have")
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
    """Parse JSON whose values can be used and written again without a surprise; see ``check_value``.

    :param text: The document.
    :param pairs: As ``json.loads`` has it: makes an object of its keys and values; by default each key is there once.
    :raises MalformedError: It is not JSON, or has such a value.
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

    :raises MalformedError: It is not YAML, has such a value, or is larger than a file that a person writes, as one
        whose aliases multiply.
    """
    import yaml  # late: --help does without it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_depth(yaml.parse(text, loader))
        value = yaml.load(text, _plain(loader))  # noqa: S506 both loaders are safe ones
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise MalformedError(readable(" ".join(str(error).split()), 300)) from error
    check_value(value, _MOST)
    return value


def _plain(loader: Any) -> Any:
    """Return a loader that takes no key twice, and as numbers only what is written as everywhere.

    By the first version of YAML ``010`` is 8, ``1:30`` is 90 and ``1_000`` is 1000; here they are refused.
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
                raise MalformedError(f"the number {text} is not written with plain digits; if it is a text, quote it")
            return text

    return Plain


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of keys that occur once: of a key that occurs twice every reader takes another value."""
    values = dict(pairs)
    if len(values) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise MalformedError(f"the key {readable(ascii(twice), 80)} occurs twice")
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
    """Refuse values that programs stumble over: deep nesting, half characters, integers beyond all floats.

    :param value: What a parser returned.
    :param most: The most values that there may be, those in several places counted in each.
    :raises MalformedError: There is one.
    """
    level, count = [value], 0
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for one in level:
            kind = type(one)
            if kind in _HARMLESS or (kind is int and -_LARGEST_PLAIN < one < _LARGEST_PLAIN):
                continue
            if kind is dict:
                below += one.keys()
                below += one.values()
            elif kind in _SEQUENCES:
                below += one
            else:
                _check_plain(one)
            if most is not None and count + len(below) > most:
                raise MalformedError(f"it has more than {most} values")
        if not below:
            return
        level, count = below, count + len(below)
    raise MalformedError(f"it is nested more than {_DEEPEST} levels deep")


def _check_plain(value: Any) -> None:
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= one <= "\udfff" for one in value):
        raise MalformedError(f"{readable(ascii(value), 80)} holds half of a surrogate pair, which is not Unicode text")
    if type(value) is int and value.bit_length() > 1023:
        raise MalformedError(f"an integer of {value.bit_length()} bits, which is larger than any float")


def is_number(value: object) -> bool:
    """Tell whether a value is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> bool:
    """Tell whether a value is an integer from 0 to 2**63, and no truth value."""
    return type(value) is int and 0 <= value < 1 << 63


def check_fields(values: Mapping[str, Any], kinds: Mapping[str, Callable[[Any], bool]]) -> None:
    """Check the types of the values that will be used; keys that are missing or null are not.

    :param values: A JSON object.
    :param kinds: For each key what tells whether a value is of its type.
    :raises MalformedError: One is not; the message names it.
    """
    for key, fits in kinds.items():
        value = values.get(key)
        if value is not None and not fits(value):
            raise MalformedError(f"'{key}' cannot be {short(value)}")
