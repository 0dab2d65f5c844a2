"""Edit weights that are stored as float8 with scales: dequantise, edit in float64, quantise again, report the error.

A block keeps its scale unless an edited value would leave the range of float8; only then it gets the least scale that
its largest value fits. So values that an edit does not touch keep their bits wherever that is possible. A block whose
scale is zero is a block of zeros: it gets a scale when an edit moves it, and otherwise stays as it is.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from taskarith.arithmetic.calculator import Calculator, Recipe
from taskarith.arithmetic.encoding import decode, encode
from taskarith.arithmetic.float8 import LARGEST, VALUES, to_float8
from taskarith.arithmetic.parallel import chunks
from taskarith.checkpoints.float8 import Scaling
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import HashingTensor, TensorReader
from taskarith.checkpoints.writer import HashingWriter
from taskarith.edit.inputs import Calculation, open_inputs, term_fingerprints
from taskarith.errors import MismatchError

__all__ = ["requantise"]


def requantise(
    source: TensorEntry,
    what: Calculation,
    scaling: Scaling,
    calculator: Calculator,
    reader: TensorReader,
    writers: tuple[HashingWriter, HashingWriter],
    chunk: int,
    stop: threading.Event,
) -> dict[str, Any]:
    """Write an edited float8 weight and its scales; return what the journal notes of both.

    :param source: The weight.
    :param what: The inputs, the weight itself first, and the terms.
    :param scaling: Where its scales are.
    :param calculator: Calculates in float64.
    :param reader: Reads the inputs, twice: once for the range of each block, once for the result.
    :param writers: Of the weight and of the scales.
    :param chunk: Elements at a time.
    :param stop: Set when the run is given up.
    :raises MismatchError: A scale is not finite, or a float8 value is NaN.
    """
    scale = HashingTensor(scaling.scale, reader)
    data = bytearray(scaling.scale.nbytes)
    scale.read_into(memoryview(data))
    before = decode(data, scaling.scale.dtype)
    _check(scaling.scale, "scales", ~np.isfinite(before))
    work = _Pass(source, what, scaling, before, calculator, reader, chunk)
    largest, is_finite = np.zeros(len(before)), True
    for _, values, blocks, finite in work.edited(stop):
        np.maximum.at(largest, blocks, np.abs(values))
        is_finite = is_finite and finite
    stored = encode(_scales(before, largest, scaling.grid), scaling.scale.dtype)
    after = decode(stored, scaling.scale.dtype)
    error, total = 0.0, 0.0
    weight, scales = writers
    for unedited, values, blocks, _ in work.edited(stop):
        is_zero = after[blocks] == 0
        with np.errstate(invalid="ignore"):  # what is not finite is noted above, and never published
            codes = np.where(is_zero, unedited, to_float8(values / np.where(is_zero, 1.0, after[blocks])))
        is_finite = is_finite and not np.isnan(VALUES[codes]).any()
        weight.append(codes.tobytes())
        error += float(np.sum((VALUES[codes] * after[blocks] - values) ** 2))
        total += float(np.sum(values**2))
    scales.append(stored)
    return {
        "base": work.base,
        "operands": work.fingerprints,
        "finite": is_finite and bool(np.isfinite(after).all()),
        "scale": {"base": scale.fingerprint(), "output": scales.fingerprint(), "operands": [], "finite": True},
        "error": math.sqrt(error / total) if total else 0.0,
    }


class _Pass:
    """Calculates the edited values of a weight, from the first to the last, as often as they are asked for."""

    def __init__(
        self,
        source: TensorEntry,
        what: Calculation,
        scaling: Scaling,
        scales: np.ndarray,
        calculator: Calculator,
        reader: TensorReader,
        chunk: int,
    ) -> None:
        self._source, self._what, self._scaling, self._scales = source, what, scaling, scales
        self._calculator, self._reader, self._chunk = calculator, reader, chunk
        self.base, self.fingerprints = "", list[str]()

    def edited(self, stop: threading.Event) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, bool]]:
        """Return codes as stored, edited float64 values, their blocks, and whether all are finite, chunk by chunk.

        :raises MismatchError: A code is NaN.
        """
        source, recipe = self._source, self._what.recipe
        self._calculator.begin(Recipe(("F64", *recipe.dtypes[1:]), recipe.terms, "F64"))
        inputs = open_inputs(self._what, self._reader, self._calculator)
        columns = source.shape[1]
        for start, end in chunks(source.elements, self._chunk):
            if stop.is_set():
                return
            stored = bytearray(end - start)
            inputs[0].read_into(memoryview(stored))
            codes = np.frombuffer(stored, np.uint8)
            _check(source, "float8 values", np.isnan(VALUES[codes]))
            row, column = np.divmod(np.arange(start, end), columns)
            blocks = row // self._scaling.rows * self._scaling.across + column // self._scaling.columns
            values = VALUES[codes] * self._scales[blocks]
            self._calculator.room(0, end - start)[:] = values.tobytes()
            for index, tensor in enumerate(inputs[1:], 1):
                tensor.read_into(self._calculator.room(index, end - start))
            data, finite = self._calculator.linear(start, end)
            yield codes, np.frombuffer(data, np.float64), blocks, finite
        self.base, self.fingerprints = inputs[0].fingerprint(), term_fingerprints(self._what, inputs)


def _scales(before: np.ndarray, largest: np.ndarray, grid: str) -> np.ndarray:
    """Return the new scales: the old ones, or where they are too small the least that hold the largest value."""
    needed = largest / LARGEST
    rounded = decode(encode(needed, grid), grid)
    up = decode(encode(needed * (1 + 2.0**-7), grid), grid)  # more than half a unit of bfloat16
    up = np.where(up >= needed, up, _next_above(rounded, grid))  # a unit is larger than that in subnormal numbers
    enough = np.where(rounded >= needed, rounded, up)
    return np.where(largest > np.abs(before) * LARGEST, enough, before)


def _next_above(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return the number of a dtype that follows each of some that are not negative: its bits, plus one."""
    bits = np.frombuffer(encode(values, dtype), f"<u{ITEM_SIZES[dtype]}")
    return decode((bits + bits.dtype.type(1)).tobytes(), dtype)


def _check(tensor: TensorEntry, what: str, is_wrong: np.ndarray) -> None:
    if is_wrong.any():
        raise MismatchError(
            f"{tensor.name} in {tensor.path} has {what} that are not finite",
            "Download or save the model again: numbers that are NaN or infinite cannot be edited.",
        )
