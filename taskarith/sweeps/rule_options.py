"""The rule of a sweep, from what a user gives; without torch, so that a mistake is said at once."""

from __future__ import annotations

import math
from collections.abc import Mapping

from taskarith.errors import UsageError
from taskarith.sweeps.rule import Rule, TextScore
from taskarith.sweeps.split import is_forgotten

__all__ = ["make_rule"]


def make_rule(
    model: str, data: Mapping[str, str], reference: str | None, target: float | None, budget: float | None
) -> Rule:
    """Return the rule, still without the level of a reference; the parameters are those of ``sweep``.

    :raises UsageError: A number is not finite, two rules or levels are given, or a forget or retain set is missing.
    """
    for name, value in (("target", target), ("budget", budget)):
        if value is not None and not math.isfinite(value):
            raise UsageError(f"--{name} {value} is not finite", f"Give a number of nats, as in --{name} 0.5")
    if budget is not None and target is not None:
        raise UsageError("--target and --budget are two different rules", "Give one of --target and --budget.")
    sides = {is_forgotten(text) for text in data}
    if sides != {True, False}:
        missing = "forget" if True not in sides else "retain"
        raise UsageError(
            f"there is no {missing} set",
            "Names starting with forget are forget sets, all others retain sets: --data forget=A --data retain=B",
        )
    if reference == model:
        raise UsageError("the reference is the model itself", "Give a model that never knew the forget sets.")
    if reference is not None and target is not None:
        raise UsageError("--reference and --target are two different levels", "Give one of --reference and --target.")
    return Rule(None if target is None else {text: TextScore(target) for text in data if is_forgotten(text)}, budget)
