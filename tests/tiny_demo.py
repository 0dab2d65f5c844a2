"""The demo in small."""

from __future__ import annotations

from dataclasses import replace

from taskarith.demo.scale import QUICK
from taskarith.evaluation.measurement import Measurement

TINY = replace(
    QUICK,
    characters=400,
    block_size=64,
    learning_rate=3e-3,
    epochs=4,
    alphas=(0.0, 0.5, 1.0, 3.0),
    measurement=Measurement(block_size=24, prompts=2, prompt_tokens=8, continuation_tokens=8),
)
