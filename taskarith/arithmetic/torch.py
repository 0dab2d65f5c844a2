"""The arithmetic of one chunk with torch, on any device that has float64: the same bits as ``kernels.linear``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from taskarith.arithmetic.calculator import Comparison, LowRank, Products, Recipe, Term
from taskarith.checkpoints.dtypes import TORCH_NAMES
from taskarith.checkpoints.header import ITEM_SIZES

__all__ = ["TORCH_DTYPES", "TorchCalculator", "linear_edit", "low_rank", "round_to", "same_bits"]

TORCH_DTYPES: dict[str, torch.dtype] = {code: getattr(torch, name) for code, name in TORCH_NAMES.items()}
"""By safetensors' names."""

_SPAN = 1 << 13
"""Elements of an inner product that BLAS adds in one thread, and so always in one order."""

_BIT_VIEWS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def round_to(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round float64 to nearest even, once.

    torch converts float64 to 16 bits by way of float32, which rounds twice. Here the step to float32 rounds to odd:
    an inexact result takes the neighbour whose last bit is 1, so that the second step still sees which side of a
    midpoint the value was on. Correct because 24 bits >= 11 + 2 (Boldo and Melquiond, "Emulation of FMA and correctly
    rounded sums: proved algorithms using rounding to odd", IEEE Transactions on Computers 57 (4), 2008).

    :param values: float64, any shape, any device that has float64.
    :param dtype: float64, float32, float16 or bfloat16.
    """
    single = values.to(torch.float32) if dtype != torch.float64 else values
    if dtype in (torch.float64, torch.float32):
        return single
    back = single.to(torch.float64)
    bits = single.view(torch.int32)
    even_and_inexact = (back != values) & (bits & 1 == 0) & ~values.isnan()
    step = torch.where(values.abs() > back.abs(), 1, -1).to(torch.int32)
    odd = torch.where(even_and_inexact, bits + step, bits).view(torch.float32)
    return odd.to(dtype)


def linear_edit(base: torch.Tensor, terms: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Return ``round(base + sum(terms))``, and the base itself wherever the sum is zero.

    The sum does not depend on the order of the terms: two commute, three or more are added in the order of their
    values, element by element. An element whose sum is zero keeps the bits of the base (``-0.0 + 0.0`` would not).

    :param base: Flat, in the dtype of the file.
    :param terms: Coefficient times delta, float64, shaped like ``base``.
    :param dtype: Dtype of the result.
    """
    wide = base.to(torch.float64)
    if not terms:
        return round_to(wide, dtype)
    if len(terms) > 2:
        terms = torch.stack(tuple(terms)).sort(dim=0).values.unbind()
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return round_to(torch.where(total == 0, wide, wide + total), dtype)


def low_rank(factors: LowRank, start: int, stop: int, device: torch.device) -> torch.Tensor:
    """Return elements ``start`` to ``stop`` (row-major) of a product, each summed over the rank in one fixed order.

    A matrix product may sum differently for another number of rows; here no bit depends on how a tensor is cut.
    """
    columns = factors.right.shape[1]
    first, last = start // columns, -(-stop // columns)
    rank, rows = factors.left.shape[1], len(factors.left) // factors.blocks
    total = torch.zeros(last - first, columns, dtype=torch.float64, device=device)
    for block in range(first // rows, -(-last // rows)):
        here, there = max(first, block * rows), min(last, (block + 1) * rows)
        left = torch.from_numpy(factors.left[here:there]).to(device)
        right = torch.from_numpy(factors.right[block * rank : (block + 1) * rank]).to(device)
        part = total[here - first : there - first]
        for index in range(rank):
            part += left[:, index : index + 1] * right[index]
    return total.flatten()[start - first * columns : stop - first * columns] * factors.scale


def same_bits(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Compare two tensors of one dtype bit by bit: -0.0 differs from 0.0, a NaN equals itself."""
    view = _BIT_VIEWS[first.element_size()]
    return first.view(view) == second.view(view)


class TorchCalculator:
    """Calculates chunks on a torch device; see ``Calculator``.

    On a GPU the buffers are pinned and every worker has a stream of its own, so that two workers overlap one's copies
    with the other's arithmetic.
    """

    is_compiled = False

    def __init__(self, chunk: int, device: str = "cpu") -> None:
        self.device, self._device = device, torch.device(device)
        self._chunk = chunk
        self._is_cuda = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if self._is_cuda else None
        self._rows: list[torch.Tensor] = []
        self._out = self._buffer()

    def begin(self, recipe: Recipe) -> None:
        """Make ready for a tensor."""
        self._recipe = recipe
        while len(self._rows) < len(recipe.dtypes):
            self._rows.append(self._buffer())

    def room(self, index: int, elements: int) -> memoryview:
        """Return where the bytes of a chunk of an input belong."""
        return self._rows[index].numpy().data[: elements * ITEM_SIZES[self._recipe.dtypes[index]]]

    def linear(self, start: int, stop: int) -> tuple[memoryview, bool]:
        """Calculate ``round(base + sum of terms)``."""
        with torch.cuda.stream(self._stream):
            inputs = self._inputs(stop - start)
            terms = [term.coefficient * self._delta(term, inputs, start, stop) for term in self._recipe.terms]
            values = linear_edit(inputs[0], terms, TORCH_DTYPES[self._recipe.output])
            return self._bytes(values), bool(values.isfinite().all())

    def delta(self, term: Term, start: int, stop: int, out: np.ndarray) -> bool:
        """Calculate ``plus - minus`` in float64; a zero that is read has no sign."""
        with torch.cuda.stream(self._stream):
            values = self._delta(term, self._inputs(stop - start), start, stop)
            if not isinstance(term.plus, LowRank):
                values = values + 0.0
            out[:] = values.cpu().numpy()
            return bool(values.isfinite().all())

    def inner_products(self, start: int, stop: int, found: Products) -> None:
        """Add the inner products of all pairs of terms, and keep the few elements."""
        with torch.cuda.stream(self._stream):
            inputs = self._inputs(stop - start)
            values = torch.stack(
                [one.coefficient * self._delta(one, inputs, start, stop) for one in self._recipe.terms]
            )
            rows = values.cpu().numpy()
        place = found.next_from(start)
        few = rows[:, found.first + place * found.step - start :: found.step]
        with np.errstate(all="ignore"):  # what is not finite makes a sum that is not
            found.few[:, place : place + few.shape[1]] = few
            for i, j in zip(*np.tril_indices(len(rows)), strict=True):
                spans = [slice(first, first + _SPAN) for first in range(0, stop - start, _SPAN)]
                found.sums[i, j] += sum(float(rows[i, span] @ rows[j, span]) for span in spans)

    def difference(self, start: int, stop: int) -> tuple[memoryview, bool, Comparison]:
        """Calculate ``round(plus - base)`` of the first term and compare."""
        with torch.cuda.stream(self._stream):
            inputs = self._inputs(stop - start)
            base, term = inputs[0], self._recipe.terms[0]
            tuned = inputs[term.plus] if isinstance(term.plus, int) else low_rank(term.plus, start, stop, self._device)
            delta = round_to(tuned.to(torch.float64) - base.to(torch.float64), TORCH_DTYPES[self._recipe.output])
            again = linear_edit(base, [delta.to(torch.float64)], tuned.dtype)
            found = Comparison(
                stop - start - int(torch.count_nonzero(same_bits(again, tuned))),
                int(torch.count_nonzero(delta)),
                float(torch.linalg.vector_norm(delta, dtype=torch.float64)) ** 2,
            )
            return self._bytes(delta), bool(delta.isfinite().all()), found

    def _buffer(self) -> torch.Tensor:
        return torch.empty(self._chunk * 8, dtype=torch.uint8, pin_memory=self._is_cuda)

    def _inputs(self, elements: int) -> list[torch.Tensor]:
        return [
            row[: elements * ITEM_SIZES[dtype]].view(TORCH_DTYPES[dtype]).to(self._device, non_blocking=True)
            for row, dtype in zip(self._rows, self._recipe.dtypes, strict=False)
        ]

    def _delta(self, term: Term, inputs: list[torch.Tensor], start: int, stop: int) -> torch.Tensor:
        if isinstance(term.plus, LowRank):
            return low_rank(term.plus, start, stop, self._device)
        delta = inputs[term.plus].to(torch.float64)
        return delta if term.minus is None else delta - inputs[term.minus].to(torch.float64)

    def _bytes(self, values: torch.Tensor) -> memoryview:
        out = self._out[: values.numel() * values.element_size()]
        out.copy_(values.view(torch.uint8), non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()
        return out.numpy().data
