"""Float8 (E4M3, finite only, largest number 448) with numpy: the 256 values, and rounding to nearest even."""

from __future__ import annotations

import numpy as np

__all__ = ["LARGEST", "VALUES", "to_float8"]

LARGEST = 448.0


def _values() -> np.ndarray:
    codes = np.arange(128)
    exponent, fraction = codes >> 3, codes & 7
    positive = np.where(exponent > 0, np.ldexp(1 + fraction / 8, exponent - 7), np.ldexp(fraction / 8, -6))
    positive[127] = np.nan
    return np.concatenate([positive, -positive])


VALUES = _values()
"""float64, 256: what each byte means (OCP 8-bit floating point specification, E4M3)."""


def to_float8(values: np.ndarray) -> np.ndarray:
    """Round float64 to the bytes of the nearest E4M3 numbers, ties to even; beyond 448 the largest is taken."""
    magnitude = np.minimum(np.abs(values), LARGEST)
    unit = np.ldexp(1.0, np.maximum(np.frexp(magnitude)[1] - 1, -6) - 3)
    codes = np.searchsorted(VALUES[:127], np.rint(magnitude / unit) * unit).astype(np.uint8)
    return codes | (np.signbit(values).astype(np.uint8) << 7)
