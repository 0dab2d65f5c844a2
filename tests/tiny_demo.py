"""The demo in small."""

from __future__ import annotations

from dataclasses import replace

from taskarith.demo.run import QUICK

TINY = replace(
    QUICK,
    characters=400,
    block_size=64,
    learning_rate=6e-4,
    epochs_all=2,
    epochs_one=1,
    prompts=2,
    prompt_tokens=8,
    continuation_tokens=8,
)
