"""Scalar products: the same bits with and without kernels, and near those of another order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merging import method

from taskarith.arithmetic.kernels.layout import LANES
from taskarith.merging import combination
from taskarith.merging.methods import METHODS
from taskarith.merging.operator import Setting

SIZES = st.sampled_from([1, 7, LANES - 1, LANES, LANES + 1, 2000])


@pytest.fixture
def numpy_alone(monkeypatch):
    monkeypatch.setattr(combination, "load_or_none", lambda _: None)


def gram(pieces):
    products = combination.Products(len(pieces[0]))
    for rows in pieces:
        products.add(rows)
    return products.gram(range(len(pieces[0])))


@given(count=st.integers(1, 4), sizes=st.lists(SIZES, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_scalar_products(count, sizes, seed):
    generator = np.random.default_rng(seed)
    pieces = [[generator.standard_normal(size) for _ in range(count)] for size in sizes]
    found = gram(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combination, "load_or_none", lambda _: None)
        assert found.tobytes() == gram(pieces).tobytes()
    whole = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
    assert np.allclose(found, [[np.dot(one, two) for two in whole] for one in whole], rtol=1e-13, atol=1e-12)


def too_large():
    with pytest.raises(FloatingPointError, match="scalar product"):
        combination.Products(2).add([np.full(3, 1e200), np.ones(3)])


def test_a_product_that_is_too_large_is_an_error():
    too_large()


@pytest.mark.usefixtures("numpy_alone")
def test_a_product_that_is_too_large_is_an_error_without_kernels():
    too_large()


def test_cosines_lie_between_minus_one_and_one_and_are_zero_where_a_row_is():
    products = combination.Products(3)
    products.add([np.array([0.1, 0.3]), np.array([-0.3, -0.9]), np.zeros(2)])
    assert products.cosine(0, 1) == pytest.approx(-1.0)
    assert products.cosine(0, 1) >= -1
    assert products.cosine(0, 2) == 0.0


def test_factors_are_known_after_a_reading():
    how = method("model_stock")
    operator = METHODS["model_stock"].load()(Setting((2,), ("a", "b"), (1.0, 1.0), (), 1.0, how))
    with pytest.raises(AssertionError):
        operator.factors()
    operator.scan([np.array([2.0, 0.0]), np.array([2.0, 0.0])], None)
    operator.end_scan()
    assert operator.is_ready()
    assert operator.factors() == ([0.5, 0.5], 0.0)
