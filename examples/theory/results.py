"""The numbers behind the table: thresholds for each alpha as Markdown, everything as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.theory.claims import Claim
from examples.theory.findings import Findings
from examples.theory.regimes import TOLERANCE

__all__ = ["thresholds_table", "write_json"]


def thresholds_table(found: Findings) -> str:
    """Return the thresholds of addition for each alpha: mean ± standard deviation over seeds."""
    criteria = list(found.regimes[0].by_criterion)
    names = [name if name == "accuracy" else f"loss ≤ {name}" for name in criteria]
    lines = [
        f"| α | 1 - α | {(1 - TOLERANCE):g}/g - α | "
        + " | ".join(f"least λ, {name}" for name in names)
        + " | best worse loss |",
        "|" + "---|" * (4 + len(names)),
    ]
    margin = float(np.mean(found.margin))
    for regime in found.regimes:
        aligned = regime.alpha >= 0
        literal, scaled = (
            (1 - regime.alpha, max(0.0, (1 - TOLERANCE) / margin - regime.alpha)) if aligned else (None, None)
        )
        cells = [_number(literal), _number(scaled), *(_spread(regime.by_criterion[name]) for name in criteria)]
        lines.append(f"| {regime.alpha:g} | {' | '.join(cells)} | {np.mean(regime.best_loss):.2f} |")
    return "\n".join(lines)


def write_json(found: Findings, rows: Sequence[Claim], path: Path) -> None:
    """Write the table and the numbers it is made from; NaN becomes null."""
    names = ("setting", "seeds", "margin", "leak", "regimes", "rank_errors", "checks", "history", "same_bits")
    value = {"claims": rows, **{name: getattr(found, name) for name in names}}
    value["regions"] = [
        {
            "gamma": region.gamma,
            "axis": region.axis,
            "learned": region.learned.mean(0),
            "accurate": region.accurate.mean(0),
            "least": region.least,
            "least_loss": region.least_loss,
            "least_accuracy": region.least_accuracy,
        }
        for region in found.regions
    ]
    value["rows"] = {
        name: {"small": group.small, "gap": group.gap, "energy": group.energy}
        for name, group in (("even", found.rows), ("odd", found.odd_rows))
    }
    text = json.dumps(_plain(value), indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _spread(values: Sequence[float]) -> str:
    array = np.array(values)
    if np.isnan(array).all():
        return "none"
    some = f" ({np.isfinite(array).sum()} of {len(array)} seeds)" if np.isnan(array).any() else ""
    return f"{np.nanmean(array):.2f} ± {np.nanstd(array):.2f}{some}"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in (field.name for field in fields(value))}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
