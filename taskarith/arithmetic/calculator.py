"""What is calculated, as plain values: which inputs, which terms, which output dtype; and who calculates it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # most edits do without numpy, which takes a tenth of a second to import
    import numpy as np

__all__ = ["Calculator", "Comparison", "LowRank", "Products", "Recipe", "Term"]


@dataclass(frozen=True)
class LowRank:
    """A delta in factored form: ``scale * left @ right``, or several such products, one below the other.

    :param left: float64, (blocks * rows) x rank, one row after the other.
    :param right: float64, (blocks * rank) x columns, likewise.
    :param scale: A factor.
    :param blocks: Number of products.
    """

    left: np.ndarray
    right: np.ndarray
    scale: float
    blocks: int = 1


@dataclass(frozen=True)
class Term:
    """One summand, ``coefficient * (plus - minus)``.

    :param coefficient: Sign included.
    :param plus: Number of an input, or factors.
    :param minus: Number of an input, or None.
    """

    coefficient: float
    plus: int | LowRank
    minus: int | None = None


@dataclass(frozen=True)
class Recipe:
    """``round(base + sum of terms)`` for one tensor.

    :param dtypes: Of the inputs, as safetensors names them; input 0 is the base.
    :param terms: What is added.
    :param output: Dtype of the result.
    """

    dtypes: tuple[str, ...]
    terms: tuple[Term, ...]
    output: str


@dataclass(frozen=True)
class Comparison:
    """What is known about a delta after it was written.

    :param inexact: Elements that ``base + delta``, rounded to the fine-tune's dtype, does not give back to the bit.
    :param moved: Deltas that are not zero.
    :param squares: Sum of their squares.
    """

    inexact: int
    moved: int
    squares: float


@dataclass(frozen=True)
class Products:
    """What is collected of a recipe's terms ``coefficient * (plus - minus)``, chunk after chunk.

    :param sums: float64, terms x terms: inner products; only those on the diagonal and below it are added to.
    :param few: float32, terms x a few: elements ``first``, ``first + step``, ... of each term.
    :param first: The first of these elements.
    :param step: At least 1.
    """

    sums: np.ndarray
    few: np.ndarray
    first: int
    step: int

    def next_from(self, start: int) -> int:
        """Return the number of the first of the few elements that is ``start`` or comes after it."""
        return max(0, -(-(start - self.first) // self.step))


class Calculator(Protocol):
    """The buffers and the arithmetic of one worker: begin a tensor, fill the inputs of a chunk, calculate it.

    ``device`` is where it calculates, as torch names it; ``is_compiled`` tells whether by the kernels.
    """

    device: str
    is_compiled: bool

    def begin(self, recipe: Recipe) -> None:
        """Make ready for a tensor."""

    def room(self, index: int, elements: int) -> memoryview:
        """Return where the bytes of a chunk of an input belong."""

    def linear(self, start: int, stop: int) -> tuple[memoryview, bool]:
        """Calculate elements ``start`` to ``stop``: bytes, valid until the next call, and whether all are finite."""

    def delta(self, term: Term, start: int, stop: int, out: np.ndarray) -> bool:
        """Write a term's ``plus - minus``, without coefficient, in float64; return whether all of it is finite."""

    def inner_products(self, start: int, stop: int, found: Products) -> None:
        """Add what elements ``start`` to ``stop`` give; what is not finite makes sums that are not."""

    def difference(self, start: int, stop: int) -> tuple[memoryview, bool, Comparison]:
        """Return the bytes of ``round(plus - base)`` of the first term, whether all is finite, and what was found."""
