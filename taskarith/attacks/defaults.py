"""Default measurement and runtime of an attack."""

from __future__ import annotations

from taskarith.evaluation.measurement import Measurement
from taskarith.models.runtime import Runtime

__all__ = ["MEASUREMENT", "RUNTIME"]

MEASUREMENT = Measurement(continuation_tokens=32)

RUNTIME = Runtime(dtype="float32")
"""Relearning needs float32 weights."""
