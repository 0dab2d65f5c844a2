"""How often intervals hold the truth."""

from __future__ import annotations

RUNS = 400
