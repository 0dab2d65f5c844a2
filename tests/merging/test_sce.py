"""SCE: mergekit's numbers, and values worked out by hand."""

from __future__ import annotations

import numpy as np
from merging import merge, method


def test_sce_gives_the_numbers_of_mergekit():
    deltas = [[0.5, -1.0, 2.0, 0.0, 0.25], [-0.25, -1.0, 1.0, 0.5, 0.25], [1.5, 3.0, -1.0, 0.0, 0.25]]
    whole = [1.1985815602836878, 3.0, 1.6910569105691056, 0.5, 0.25]
    assert np.allclose(merge(method("sce", 1.0), deltas), whole, rtol=1e-13)
    # four of five elements vary: of these three, and two, vary most
    assert np.allclose(merge(method("sce", 0.75), deltas), [1.2, 3, 1.717948717948718, 0, 0], rtol=1e-13)
    assert np.allclose(merge(method("sce", 0.5), deltas), [0, 3, 1.7142857142857142, 0, 0], rtol=1e-13)
    # deltas that are so small weigh the same
    small = [1e-4 * np.array(delta) for delta in deltas]
    assert np.allclose(merge(method("sce", 1.0), small), [1e-4, 3e-4, 1.5e-4, 5e-5, 2.5e-5], rtol=1e-13)
    assert np.allclose(merge(method("sce", 1.0), deltas, alpha=-0.5), -0.5 * np.array(whole), rtol=1e-13)
    # elements that vary alike: those that come first, in the second pass over them as in the first
    assert merge(method("sce", 0.5), [[1.0] * 4, [0.0] * 4]).tolist() == [1, 1, 0, 0]
