"""How wrong a sum of products of factors may be in float32: what ``arithmetic.kernels.error_bound`` has to know."""

from __future__ import annotations

import math

from taskarith.arithmetic.calculator import LowRank, Recipe

__all__ = ["slack_of"]

_UNIT, _LEAST_NORMAL = 2.0**-24, 2.0**-126
_LEAST, _MOST, _LARGEST = 2.0**-100, 2.0**20, 2.0**60
"""Coefficients and the slack have to be between the first two, or zero; elements of factors may be larger."""


def slack_of(recipe: Recipe) -> float:
    """Return how wrong the sum of a recipe's terms may be if ``low_rank`` calculates it in float32.

    An operation of float32 is wrong by at most a factor of 1 + 2^-24, unless it underflows. A summand of a product of
    rank r is rounded once in the left factor, the right one, their product, the add to each of its followers and to
    each other term; the sum of the absolute values of all summands is at most the product of the norms of a row and a
    column (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1).

    :returns: At least 2^-100; -1 where only float64 will do, or is as fast: not all terms are products, the result
        has more bits than bfloat16, or numbers are beyond all measure.
    """
    products = [term.plus for term in recipe.terms if isinstance(term.plus, LowRank)]
    factors = [term.coefficient * product.scale for term, product in zip(recipe.terms, products, strict=False)]
    is_narrow = recipe.output == "BF16" and recipe.dtypes[0] != "F64"
    is_moderate = all(factor == 0 or _LEAST <= abs(factor) <= _MOST for factor in factors)
    if not is_narrow or not products or len(products) < len(recipe.terms) or not is_moderate:
        return -1.0
    errors = (_error(product, abs(factor), len(products)) for product, factor in zip(products, factors, strict=True))
    total = _LEAST + 1.01 * sum(errors)
    return total if total < _MOST else -1.0


def _error(product: LowRank, factor: float, terms: int) -> float:
    """Return how wrong ``(factor * left) @ right`` may be."""
    if 0 in product.left.shape or 0 in product.right.shape:
        return 0.0
    if not max(abs(product.left).max(), abs(product.right).max()) <= _LARGEST:  # nor if one is NaN
        return math.inf
    rank = product.left.shape[1]
    right = product.right.reshape(product.blocks, rank, -1)
    row, column = (math.sqrt((side * side).sum(1).max()) for side in (product.left, right))
    times = rank // 8 + rank % 8 + 5 + terms  # eight summands at a time, as a tree
    underflow = (rank + terms) * _LEAST_NORMAL * (max(factor, 1.0) * row + column + 1)
    return times * _UNIT * factor * row * column + underflow
