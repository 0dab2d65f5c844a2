"""What the kernels and their callers agree on: codes of dtypes, and how many elements a block has."""

from __future__ import annotations

from taskarith.checkpoints.header import FLOAT_DTYPES

__all__ = ["BLOCK", "DTYPE_CODES", "LANES"]

DTYPE_CODES = {dtype: code for code, dtype in enumerate(FLOAT_DTYPES)}
"""How the kernels call safetensors' float dtypes."""

BLOCK = 512
"""Elements that go through the kernels' buffers, which stay in a core's first cache, at a time."""

LANES = 64
"""Partial sums of a sum whose order is to be the same on every processor."""
