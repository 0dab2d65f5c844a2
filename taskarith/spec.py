"""The small languages of the command line: model@revision, vector:coefficient, name=data, alpha lists."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from taskarith.errors import UsageError

__all__ = [
    "DataRef",
    "ModelRef",
    "OperandRef",
    "parse_alphas",
    "parse_combination",
    "parse_data",
    "parse_model",
    "parse_named_data",
    "parse_operand",
    "parse_size",
]


@dataclass(frozen=True)
class ModelRef:
    """A model as the user named it: a local path, or a hub id with an optional revision."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


@dataclass(frozen=True)
class OperandRef:
    """A vector as the user named it, with its coefficient (sign included)."""

    name: str
    coefficient: float


@dataclass(frozen=True)
class DataRef:
    """A data set as the user named it: a local path with a column, or an id with config, split and column."""

    name: str
    config: str | None = None
    split: str | None = None
    column: str | None = None

    def __str__(self) -> str:
        parts = [self.column] if Path(self.name).exists() else [self.config, self.split, self.column]
        while parts and parts[-1] is None:
            parts.pop()
        return ":".join([self.name, *(part or "" for part in parts)])


def parse_model(text: str) -> ModelRef:
    """Read ``path``, ``id`` or ``id@revision``; a path that exists is taken whole."""
    if Path(text).exists():
        return ModelRef(text)
    name, at, revision = text.rpartition("@")
    if at and name and revision:
        return ModelRef(name, revision)
    return ModelRef(text)


def parse_operand(text: str, sign: float = 1.0) -> OperandRef:
    """Read ``vector`` or ``vector:coefficient``; a path that exists is taken whole.

    :param text: What the user wrote after ``--add`` or ``--negate``.
    :param sign: +1 for ``--add``, -1 for ``--negate``.
    :raises UsageError: The coefficient is not a finite number.
    """
    if Path(text).exists():
        return OperandRef(text, sign)
    name, colon, number = text.rpartition(":")
    if not colon or not name:
        return OperandRef(text, sign)
    try:
        coefficient = float(number)
    except ValueError:
        return OperandRef(text, sign)
    if not math.isfinite(coefficient):
        raise UsageError(
            f"coefficient '{number}' of {name} is not finite", "Give a number, as in vector.safetensors:0.3"
        )
    return OperandRef(name, sign * coefficient)


def parse_combination(text: str) -> list[OperandRef]:
    """Read ``V1:0.6 - V2:0.4 + V3``: vectors with signs, which stand between blanks.

    :raises UsageError: A vector or a sign is missing, or a coefficient is not finite.
    """
    parts = re.split(r"(?:^|\s)([+-])(?=\s)", f" {text.strip()} ")
    first, *rest = (part.strip() for part in parts)
    pairs = [("+", first)] * bool(first) + list(zip(rest[::2], rest[1::2], strict=True))
    if not pairs or not all(name for _, name in pairs):
        raise UsageError(f"cannot read the combination '{text}'", "Write vectors and signs, as in 'V1:0.6 - V2:0.4'")
    return [parse_operand(name, -1.0 if sign == "-" else 1.0) for sign, name in pairs]


def parse_alphas(text: str) -> list[float]:
    """Read ``0,0.5,1`` or ``start:stop:step`` (stop included) as a list of coefficients.

    :raises UsageError: A part is not a finite number, or a range has no step that reaches its end.
    """
    try:
        if ":" in text:
            start, stop, step = (float(part) for part in text.split(":"))
            count = math.floor((stop - start) / step + 1e-9) + 1
            alphas = [round(start + step * index, 12) for index in range(count)]
        else:
            alphas = [float(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        alphas = []
    if not alphas or not all(math.isfinite(alpha) for alpha in alphas):
        raise UsageError(f"cannot read alpha '{text}'", "Give numbers as 0,0.5,1 or a range as 0:1:0.1")
    return alphas


def parse_data(text: str) -> DataRef:
    """Read a data set: ``file[:column]`` or ``id[:config[:split[:column]]]``; empty parts are left out.

    :raises UsageError: There are more parts than the form has.
    """
    if Path(text).exists():
        return DataRef(text)
    name, *parts = text.split(":")
    if name and Path(name).exists():
        if len(parts) > 1:
            raise UsageError(f"data '{text}' has too many parts", "A local file is FILE or FILE:COLUMN")
        return DataRef(name, column=(parts[0] or None) if parts else None)
    if len(parts) > 3 or not name:
        raise UsageError(f"cannot read data '{text}'", "Write FILE[:COLUMN] or ID[:CONFIG[:SPLIT[:COLUMN]]]")
    config, split, column = [part or None for part in (*parts, "", "", "")[:3]]
    return DataRef(name, config, split, column)


def parse_named_data(texts: Iterable[str]) -> dict[str, str]:
    """Read ``name=SPEC`` arguments; a bare SPEC is named after its file.

    :raises UsageError: Two data sets have one name, or a part is empty.
    """
    named: dict[str, str] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        if not equals or Path(text).exists():
            name, spec = Path(text.split(":")[0]).stem, text
        if not name or not spec:
            raise UsageError(f"cannot read data '{text}'", "Write --data name=FILE, as in --data forget=forget.txt")
        if name in named:
            raise UsageError(f"two data sets are named '{name}'", "Give each its own name: --data other=FILE")
        named[name] = spec
    return named


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Read a size in bytes such as ``5GB``, ``200MB`` or ``1GiB``.

    :raises UsageError: It is not a positive size.
    """
    digits = text.strip().rstrip("BbIiKkMmGg")
    try:
        size = int(float(digits) * _UNITS[text.strip()[len(digits) :].upper()])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise UsageError(f"cannot read the size '{text}'", "Write a size as 5GB, 200MB or 1GiB")
    return size
