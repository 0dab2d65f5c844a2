"""The largest of some values."""

from __future__ import annotations

import numpy as np


def largest(values, count):
    """Return which of some values are kept: the largest magnitudes, the first of equal ones."""
    kept = np.zeros(values.size, bool)
    kept[np.argsort(-np.abs(values.ravel().astype(np.float64)), kind="stable")[:count]] = True
    return kept.reshape(values.shape)
