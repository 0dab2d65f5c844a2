"""What tests of trainings compare."""

from __future__ import annotations

WITH_PICTURES = ["gemma3", "llava", "paligemma"]
