"""Stored elements as float64 arrays of numpy, and back: plain and slow, for small things and to check the kernels."""

from __future__ import annotations

import numpy as np

__all__ = ["decode", "encode"]


def decode(data: bytes | bytearray | memoryview, dtype: str) -> np.ndarray:
    """Return the bytes of a safetensors float dtype, or of F8_E8M0, as flat float64."""
    if dtype == "F8_E8M0":
        codes = np.frombuffer(data, np.uint8)
        return np.where(codes == 255, np.nan, np.ldexp(1.0, codes.astype(np.int32) - 127))
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    return np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float64)


def encode(values: np.ndarray, dtype: str) -> bytes:
    """Round flat float64 once, to nearest even, to the bytes of a safetensors float dtype.

    Multiples of the unit in the last place are rounded to integers. F8_E8M0 has powers of two alone: a positive number
    becomes the next one below it.
    """
    if dtype == "F8_E8M0":
        codes = np.clip(np.frexp(values)[1] + 126, 0, 254)
        return np.where(np.isfinite(values), codes, 255).astype(np.uint8).tobytes()
    if dtype in {"F64", "F32"}:
        with np.errstate(over="ignore"):
            return values.astype("<f8" if dtype == "F64" else "<f4").tobytes()
    digits, least = (7, -126) if dtype == "BF16" else (10, -14)
    with np.errstate(over="ignore", invalid="ignore"):
        unit = np.ldexp(1.0, np.maximum(np.frexp(values)[1] - 1, least) - digits)
        rounded = (np.rint(values / unit) * unit).astype("<f4")
        if dtype == "F16":
            return rounded.astype("<f2").tobytes()
    return (rounded.view("<u4") >> 16).astype("<u2").tobytes()
