"""What an adapter does to one stored tensor, and the delta that this is: one class for each way of adapting it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from taskarith.architecture.layout import Piece, positions
from taskarith.arithmetic.calculator import LowRank
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader, fingerprint_bytes
from taskarith.errors import VectorError
from taskarith.vectors.vector import Delta, Difference, Factored, Packed, Stored

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Bias", "Dora", "Load", "Part", "Product", "Rows", "Saved", "SavedDelta", "Stack", "load_values"]

Load = Callable[[TensorEntry], "tuple[np.ndarray, str]"]
"""Reads a small tensor: its values in float64, in its shape, and the fingerprint of its bytes."""


class Part(Protocol):
    """A part of an adapter: what it does to one tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the tensor must have."""

    def delta(self, load: Load) -> Delta:
        """Return where the delta comes from."""


def load_values(entry: TensorEntry) -> tuple[np.ndarray, str]:
    """Read a small tensor: float64 values in its shape, and the fingerprint of its bytes.

    :raises VectorError: A value is not finite.
    """
    import numpy as np

    from taskarith.arithmetic.encoding import decode

    with TensorReader() as reader:
        data = bytes(reader.read(entry, 0, entry.nbytes))
    values = decode(data, entry.dtype)
    if not np.isfinite(values).all():
        raise VectorError(f"{entry.name} in {entry.path} has values that are not finite", "Train the adapter again.")
    return values.reshape(entry.shape), fingerprint_bytes(data)


@dataclass(frozen=True)
class Product:
    """``scale * b a``, or its transpose: A is rank x in, B is out x rank.

    With many experts A is (experts * rank) x in, one after the other, and B is out x (rank * experts), interleaved: all
    that belongs to one rank stands together (PEFT's ParamWrapper). Their deltas are experts x out x in.

    :param is_transposed: Whether the parameter is in x out.
    :param experts: Number of experts whose factors these are.
    :param piece: The part of the parameter that the stored tensor, or the rows of it, consists of; None: all of it.
    """

    a: TensorEntry
    b: TensorEntry
    scale: float
    is_transposed: bool = False
    experts: int = 1
    piece: Piece | None = None

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of the whole parameter."""
        out, width = self.b.shape[0], self.a.shape[1]
        one = (width, out) if self.is_transposed else (out, width)
        return one if self.experts == 1 else (self.experts, *one)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the stored tensor, or the rows of it, must have."""
        *many, rows, columns = self.parameter_shape
        if self.piece is None:
            return (*many, rows, columns)
        rows = rows if self.piece.rows is None else len(positions(self.piece.rows))
        columns = columns if self.piece.columns is None else len(positions(self.piece.columns))
        one = (columns, rows) if self.piece.is_transposed else (rows, columns)
        return one if self.piece.expert is not None else (*many, *one)

    def low_rank(self, load: Load) -> tuple[LowRank, str]:
        """Return the factors as the arithmetic takes them, and their fingerprint."""
        import numpy as np

        (a, a_fingerprint), (b, b_fingerprint) = load(self.a), load(self.b)
        right = a.reshape(self.experts, -1, a.shape[1])
        left = b.reshape(b.shape[0], -1, self.experts).transpose(2, 0, 1)
        if self.is_transposed:
            left, right = right.transpose(0, 2, 1), left.transpose(0, 2, 1)
        piece = self.piece
        if piece is not None:
            if piece.expert is not None:
                left, right = left[piece.expert : piece.expert + 1], right[piece.expert : piece.expert + 1]
            left = left if piece.rows is None else left[:, positions(piece.rows)]
            right = right if piece.columns is None else right[:, :, positions(piece.columns)]
            if piece.is_transposed:
                left, right = right.transpose(0, 2, 1), left.transpose(0, 2, 1)
        flat = [np.ascontiguousarray(side.reshape(-1, side.shape[2])) for side in (left, right)]
        fingerprint = fingerprint_bytes(f"{a_fingerprint} {b_fingerprint} {self.scale} {self._where()}".encode())
        return LowRank(flat[0], flat[1], self.scale, len(left)), fingerprint

    def _where(self) -> str:
        """Describe the piece; expert and first and last row stand where they have always stood."""
        piece = self.piece
        if piece is None:
            return "None None"
        rows = positions(piece.rows) if piece.rows is not None else range(self.parameter_shape[-2])
        more = "" if (piece.columns, piece.is_transposed) == (None, False) else f" {piece}"
        return f"{piece.expert} {(rows[0], rows[-1] + 1)}{more}"

    def delta(self, load: Load) -> Factored:
        """Read the factors.

        :raises VectorError: They are not finite.
        """
        return Factored(*self.low_rank(load))


@dataclass(frozen=True)
class Stack:
    """Products of several parameters that one stored matrix holds, one below the other.

    :param shape: That of the matrix, which the tensor must have.
    :param products: Those that an adapter has, each with its piece.
    """

    shape: tuple[int, ...]
    products: tuple[Product, ...]

    def delta(self, load: Load) -> Factored:
        """Put the factors into one pair: those of B below each other, each in columns of its own.

        :raises VectorError: They are not finite.
        """
        import numpy as np

        lefts, rights, fingerprints = [], [], []
        for product in self.products:
            factors, fingerprint = product.low_rank(load)
            assert product.piece is not None  # noqa: S101  (a stack is made of pieces)
            left = np.zeros((self.shape[0], factors.left.shape[1]))
            left[product.piece.start : product.piece.stop] = factors.scale * factors.left
            lefts.append(left)
            rights.append(factors.right)
            fingerprints.append(fingerprint)
        both = LowRank(np.concatenate(lefts, axis=1), np.concatenate(rights, axis=0), 1.0)
        return Factored(both, fingerprint_bytes(" ".join(fingerprints).encode()))


@dataclass(frozen=True)
class _OfOneTensor:
    """A part that is one tensor of the adapter's files, of the same shape."""

    entry: TensorEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the tensor must have."""
        return self.entry.shape


@dataclass(frozen=True)
class Bias(_OfOneTensor):
    """``scale * bias``: what B's own bias adds to that of the layer (``lora_bias``)."""

    scale: float

    def delta(self, load: Load) -> Factored:
        """Read the bias."""
        import numpy as np

        values, fingerprint = load(self.entry)
        factors = LowRank(np.ones((1, 1)), values.reshape(1, -1), self.scale)
        return Factored(factors, fingerprint_bytes(f"{fingerprint} {self.scale}".encode()))


@dataclass(frozen=True)
class Saved(_OfOneTensor):
    """A tensor that is saved as it is (modules_to_save, trained biases): the delta is its difference to the base."""

    base: TensorEntry

    def delta(self, load: Load) -> Difference:
        """Return the two tensors that are subtracted."""
        del load
        return Difference(self.entry, self.base)


class SavedDelta(_OfOneTensor):
    """A delta that a file beside the adapter holds."""

    def delta(self, load: Load) -> Stored:
        """Return where it lies."""
        del load
        return Stored(self.entry)


@dataclass(frozen=True)
class Rows:
    """Rows of an embedding that are saved as they are (trainable_token_indices); all others stay.

    :param numbers: Of the rows.
    """

    entry: TensorEntry
    numbers: tuple[int, ...]
    base: TensorEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the tensor must have."""
        rows = self.base.shape[0] if max(self.numbers, default=0) < self.base.shape[0] else max(self.numbers) + 1
        return rows, self.entry.shape[1]

    def delta(self, load: Load) -> Packed:
        """Return the rows' differences to the base, as a tensor that is zero elsewhere."""
        from taskarith.vectors.lora.folded import RowsStream  # late: numpy

        values, fingerprint = load(self.entry)
        return Packed(
            "F64", self.entry.nbytes, lambda reader: RowsStream(self.base, self.numbers, values, fingerprint, reader)
        )


@dataclass(frozen=True)
class Dora:
    """DoRA: ``m (W + scale B A) / |W + scale B A| - W``, with the norm over what one output weighs.

    Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353; PEFT's conventions.

    :param product: ``scale * b a``.
    :param magnitude: m, one number for each output.
    :param base: W, as the adapter was trained on it.
    """

    product: Product
    magnitude: TensorEntry
    base: TensorEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the tensor must have."""
        return self.product.shape

    def delta(self, load: Load) -> Packed:
        """Return the delta, which is calculated while it is read."""
        from taskarith.vectors.lora.folded import DoraStream  # late: numpy

        factors, fingerprint = self.product.low_rank(load)
        magnitude, more = load(self.magnitude)
        both, is_by_column = fingerprint_bytes(f"{fingerprint} {more}".encode()), self.product.is_transposed
        stored = sum(entry.nbytes for entry in (self.product.a, self.product.b, self.magnitude))
        return Packed(
            "F64",
            stored,
            lambda reader: DoraStream(self.base, factors, magnitude.ravel(), is_by_column, both, reader),
        )
