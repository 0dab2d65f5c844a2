"""Parsers of what users write: models, vectors, scales, lists of alpha, sizes; of data see ``data.spec``."""

from __future__ import annotations

import math
import re
import reprlib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from taskarith.errors import UsageError

__all__ = [
    "ModelRef",
    "OperandRef",
    "Scales",
    "exists",
    "finite_number",
    "parse_alphas",
    "parse_combination",
    "parse_model",
    "parse_operand",
    "parse_scales",
    "parse_size",
    "plain_scales",
    "short",
]

Scales = Mapping[str, tuple[float, ...]]
"""Tensor selectors, in order, each with its factor, or several factors interpolated over the layers."""


@dataclass(frozen=True)
class ModelRef:
    """A model as the user named it: a local path, or a hub id with an optional revision."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


@dataclass(frozen=True)
class OperandRef:
    """A vector as the user named it.

    :param name: A file, a folder or a hub id.
    :param coefficient: Sign included.
    :param scale: Factors of the coefficient, tensor by tensor.
    :param fingerprint: The fingerprint its deltas must have, as recorded by an earlier edit; empty for any.
    :param against_model: Take the delta of a fine-tuned model against the edited model, whatever base it records.
    :param role: Empty for a vector that is added; ``protect`` or ``weights`` for an input of the merge method.
    :param base: The base of a fine-tuned model, as the user named it; empty for the one it records.
    :param base_fingerprint: The fingerprint that base must have, as recorded by an earlier edit; empty for any.
    """

    name: str
    coefficient: float
    scale: Scales = field(default_factory=dict)
    fingerprint: str = ""
    against_model: bool = False
    role: str = ""
    base: str = ""
    base_fingerprint: str = ""

    def option(self, base: str) -> str:
        """Return the command-line option that names this vector with the given base."""
        option = f"--{self.role}" if self.role else "--negate" if self.coefficient < 0 else "--add"
        return shlex.join([option, str(replace(self, base=base))])

    def __str__(self) -> str:
        size = 1.0 if self.role else abs(self.coefficient)
        return self.name + (f"@@{self.base}" if self.base else "") + (f":{size!r}" if size != 1 else "")


def exists(name: str | Path) -> bool:
    """Tell whether a path exists; False for what cannot be a path, such as a long text."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def check_name(name: str) -> str:
    """Return a name that can be recorded.

    :raises UsageError: It is empty, or not Unicode text, as file names may not be.
    """
    if not name.strip():  # as a path it would be the current folder
        raise UsageError("the name of a model or vector is empty", "Give its path or hub id; is a variable not set?")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the name {name} is not Unicode text and cannot be recorded", "Rename it.") from error
    return name


def parse_model(text: str) -> ModelRef:
    """Read ``path``, ``id`` or ``id@revision``; an existing path is taken as it is.

    :raises UsageError: It is empty, not Unicode text, or a revision of a local path.
    """
    if exists(check_name(text)):
        return ModelRef(text)
    name, at, revision = text.rpartition("@")
    if at and name and revision:
        if exists(name):
            raise UsageError(
                f"there is no {text}, and {name} is a local model without revisions", f"Give {name} alone."
            )
        return ModelRef(name, revision)
    return ModelRef(text)


def parse_operand(text: str, sign: float = 1.0) -> OperandRef:
    """Read ``vector``, ``vector@@base``, or either with ``:coefficient``; an existing path is taken as it is.

    :param text: What the user wrote after ``--add`` or ``--negate``.
    :param sign: +1 for ``--add``, -1 for ``--negate``.
    :raises UsageError: The coefficient is not a finite number, or the vector or its base is missing.
    """
    name, base = _split_base(check_name(text))
    whole = base or name
    stem, colon, number = whole.rpartition(":")
    try:
        coefficient = float(number) if colon and not exists(whole) else None
    except ValueError:
        coefficient = None
    if coefficient is not None and stem and not _is_plain(number):
        raise UsageError(
            f"coefficient '{number}' of {stem} is not a plain number", "Write only digits, as in vector:1000"
        )
    if coefficient is None and stem and exists(stem) and not exists(whole) and not exists(Path(stem) / number):
        raise UsageError(f"'{number}' is no coefficient for {stem}", "Give a number, as in vector.safetensors:0.3")
    if coefficient is None or not stem:
        return OperandRef(name, sign, base=base)
    name, base = (name, stem) if base else (stem, "")
    if not math.isfinite(coefficient):
        raise UsageError(
            f"coefficient '{number}' of {name} is not finite", "Give a number, as in vector.safetensors:0.3"
        )
    return OperandRef(name, sign * coefficient, base=base)


def _split_base(text: str) -> tuple[str, str]:
    """Split ``vector@@base``; a coefficient may still follow the base."""
    name, marks, base = text.rpartition("@@")
    if not marks or exists(text) or exists(text.rpartition(":")[0] or text):
        return text, ""
    if not name or not base or base.startswith(":"):
        raise UsageError(f"cannot read the vector '{text}'", "Write FINETUNED@@BASE, as in chat@@base:0.5")
    return name, base


def parse_combination(text: str) -> list[OperandRef]:
    """Read ``V1:0.6 - V2:0.4 + V3``: vectors with signs, separated by spaces.

    :raises UsageError: A vector or a sign is missing, or a coefficient is not finite.
    """
    parts = re.split(r"(?:^|\s)([+-])(?=\s)", f" {text.strip()} ")
    first, *rest = (part.strip() for part in parts)
    pairs = [("+", first)] * bool(first) + list(zip(rest[::2], rest[1::2], strict=True))
    if not pairs or not all(name for _, name in pairs):
        raise UsageError(f"cannot read the combination '{text}'", "Write vectors and signs, as in 'V1:0.6 - V2:0.4'")
    for _, name in pairs:
        starts = [name[: sign.start()] for sign in re.finditer("[+-]", name)]
        if not exists(name) and any(
            exists(part) for start in starts for part in (start, start.rpartition(":")[0]) if part
        ):
            raise UsageError(f"cannot read '{name}'", "Put spaces around every sign, as in 'V1:0.6 - V2:0.4'")
    return [parse_operand(name, -1.0 if sign == "-" else 1.0) for sign, name in pairs]


def parse_scales(given: Mapping[str, Any] | Iterable[str]) -> dict[str, tuple[float, ...]]:
    """Read factors of coefficients per tensor: ``SELECTOR=FACTOR``, or a map of selectors to factors.

    A selector is a whole tensor name, or a pattern of one or more dotted parts of it: ``mlp`` and ``layers.*.mlp.*``
    name every tensor of an MLP. ``*`` stands for anything, ``?`` for one character, and a part ``0-11`` for each of
    these numbers. A factor is a number, or several (``0..1``, ``0..0.5..1`` or ``[0, 0.5, 1]``), spread
    evenly from the first layer to the last and interpolated linearly in between. If several
    selectors match a tensor, the last one counts.

    :raises UsageError: A selector is empty, or a factor is not a finite number.
    """
    if isinstance(given, Mapping):
        return {str(selector): _factors(str(selector), value) for selector, value in given.items()}
    scales: dict[str, tuple[float, ...]] = {}
    for text in given:
        selector, _, factors = str(text).rpartition("=")
        scales.pop(selector, None)  # a repeated selector moves to the end
        scales[selector] = _factors(selector, factors)
    return scales


def plain_scales(scales: Scales) -> dict[str, float | list[float]]:
    """Return scales as JSON and YAML values; ``parse_scales`` reads them back."""
    return {name: factors[0] if len(factors) == 1 else list(factors) for name, factors in scales.items()}


def _factors(selector: str, value: Any) -> tuple[float, ...]:
    items = value
    if isinstance(value, str):
        text = value.strip()
        items = text[1:-1].split(",") if text.startswith("[") and text.endswith("]") else text.split("..")
    elif not isinstance(value, list | tuple):
        items = [value]
    numbers = [finite_number(item) for item in items]
    factors = tuple(number for number in numbers if number is not None)
    if not selector or not factors or len(factors) != len(numbers):
        shown = value if isinstance(value, str) else short(value)
        raise UsageError(
            f"cannot read the scale '{f'{selector}={shown}' if selector else shown}'",
            "Write SELECTOR=FACTOR, as in 'mlp=0.5', 'layers.0-11=0' or, over the depth, 'layers=0..1'",
        )
    return factors


def finite_number(value: Any) -> float | None:
    """Return a number, or a string that spells one, as a float; None for infinities, NaN and anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not _is_plain(value):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_plain(number: str) -> bool:
    """Tell whether a number is in plain ASCII: Python also reads ``1_000`` and digits of other scripts."""
    return number.isascii() and "_" not in number


def short(value: Any) -> str:
    """Return a short ``repr`` of a value, however large, nested or recursive it is."""
    shortener = reprlib.Repr()
    shortener.maxlevel, shortener.maxstring = 2, 80
    try:
        return shortener.repr(value)
    except ValueError:  # a number of thousands of digits
        return f"a {type(value).__name__}"


_MAX_ALPHAS = 10_000


def parse_alphas(text: str) -> list[float]:
    """Read ``0,0.5,1`` or ``start:stop:step`` (stop included) as a list of coefficients.

    :raises UsageError: A part is not a finite number, or the step of a range does not lead to its end.
    """
    try:
        parts = [float(part) for part in (text.split(":") if ":" in text else text.split(",")) if _is_plain(text)]
        if ":" in text:
            start, stop, step = parts
            count = math.floor((stop - start) / step + 1e-9) + 1
            if count > _MAX_ALPHAS:
                raise UsageError(
                    f"alpha '{text}' is a range of {count} coefficients, more than {_MAX_ALPHAS}",
                    "Use a larger step, as in 0:1:0.1",
                )
            alphas = [round(start + step * index, 12) for index in range(count)]
        else:
            alphas = parts
    except (ValueError, ZeroDivisionError, OverflowError):
        alphas = []
    if not alphas or not all(math.isfinite(alpha) for alpha in alphas):
        raise UsageError(f"cannot read alpha '{text}'", "Give numbers as 0,0.5,1 or a range as 0:1:0.1")
    return alphas


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Read a size in bytes such as ``5GB``, ``200MB`` or ``1GiB``.

    :raises UsageError: It is not a positive size.
    """
    digits = text.strip().rstrip("BbIiKkMmGg")
    try:
        if not _is_plain(digits):
            raise ValueError(digits)
        size = int(float(digits) * _UNITS[text.strip()[len(digits) :].upper()])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise UsageError(f"cannot read the size '{text}'", "Write a size such as 5GB, 200MB or 1GiB")
    return size
