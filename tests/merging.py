"""Operators called directly, for the tests of methods."""

from __future__ import annotations

import numpy as np

from taskarith.merging.combination import Combination
from taskarith.merging.methods import METHODS, Method, parse_method
from taskarith.merging.operator import Setting
from taskarith.merging.sums import ordered_sum

BETWEEN_TWO = {"slerp", "nuslerp"}
DENSE = [name for name in METHODS if name not in {"linear", "core_space", "project", "perta"}]


def method(name: str, density: float = 0.4, **more) -> Method:
    """Return a method with a density or a rank, if it has one."""
    if "rank" in METHODS[name].parameters:
        more = {"rank": 3 if density < 1 else 10**6} | more
    return parse_method(name, **({"density": density} if "density" in METHODS[name].parameters else {}), **more)


def merge(how: Method, deltas, weights=None, alpha=1.0, shape=None, base=None, names=None, guides=(), device="cpu"):
    """Merge flat deltas in one piece; guides are those that are looked at only."""
    deltas = [np.asarray(delta, dtype=float) for delta in deltas]
    weights = [weight * alpha for weight in (weights or [1.0] * len(deltas))]
    names = names or [f"t{index}" for index in range(len(deltas))]
    setting = Setting(shape or deltas[0].shape, tuple(names), tuple(weights), (), alpha, how, device, len(guides))
    operator = METHODS[how.name].load()(setting)
    flat = [delta.ravel() for delta in [*deltas, *(np.asarray(guide, dtype=float) for guide in guides)]]
    while not operator.is_ready():
        operator.scan(flat, base)
        operator.end_scan()
    if isinstance(operator, Combination):
        factors, excess = operator.factors()
        rows = [*flat, base] if excess else flat
        return ordered_sum([one * row for one, row in zip((*factors, excess), rows, strict=False)])
    return operator.merge(0, flat, base)
