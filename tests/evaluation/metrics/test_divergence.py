"""Divergence of next-token distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskarith.errors import DataError
from taskarith.evaluation.metrics.divergence import agreement, kl_divergence

LN2 = math.log(2)


def test_divergence_by_hand():
    reference, edited = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]), np.log([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]])
    assert kl_divergence(reference, edited) == pytest.approx([0.25 * LN2, 0])
    assert agreement(reference, edited).tolist() == [False, True]
    with np.errstate(divide="ignore"):
        one_sided = np.log([[0.5, 0.5, 0.0]])
    assert kl_divergence(one_sided, np.log([[0.25, 0.25, 0.5]])) == pytest.approx([LN2])
    with pytest.raises(DataError, match="excludes"):
        kl_divergence(np.log([[0.25, 0.25, 0.5]]), one_sided)
    for wrong in (reference[:1], np.full((2, 3), math.nan)):
        with pytest.raises(DataError):
            kl_divergence(reference, wrong)


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=2, max_size=20))
def test_divergence_is_none_from_itself_and_never_negative(logits):
    first, second = (np.asarray(side) - np.logaddexp.reduce(side) for side in zip(*logits, strict=True))
    assert kl_divergence([first], [second])[0] >= -1e-12
    assert kl_divergence([first], [first])[0] == 0
