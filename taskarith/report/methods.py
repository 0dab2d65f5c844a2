"""A figure of several methods, or of several seeds of them: the loss of the text to forget, and what it costs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskarith.errors import UsageError
from taskarith.evaluation.metrics.intervals import Spread
from taskarith.evaluation.score import Number, Scores
from taskarith.report.plot import COLOURS, MARKERS, publish_figure
from taskarith.sweeps.split import is_forgotten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_methods"]

_ALPHA = re.compile(r" alpha=(\S+)")
_LONGEST = 40


@dataclass(frozen=True)
class _Point:
    """One model: the mean loss of the texts to forget and of the others, each with the ends of its band."""

    alpha: float | None
    forget: tuple[float, float, float]
    keep: tuple[float, float, float]


def plot_methods(scores: Scores, path: Path, *, overwrite: bool = False) -> None:
    """Plot the forget loss against alpha, and the retain loss against the forget loss, one curve a method.

    A method is all rows of one name but for their alpha. Bands are 95% intervals over samples, or one standard
    deviation over seeds; those of several texts are averaged as if they moved together, which makes them wider.

    :param scores: Of models that were measured on a text whose name begins with ``forget``, and on another.
    :param path: ``*.svg``, ``*.png`` or ``*.pdf``.
    :param overwrite: Replace an existing plot of taskarith.
    :raises UsageError: No model has both losses.
    :raises OutputError: The file may not be replaced, or cannot be written.
    """
    methods: dict[str, list[_Point]] = {}
    for model in scores.models:
        point = _point(model, scores.by_text[model])
        if point is not None:
            methods.setdefault(_ALPHA.sub("", model, 1), []).append(point)
    if not methods:
        raise UsageError(
            "there is nothing to plot", "Give records with losses of a text named forget, and of another to keep."
        )
    numbers = [one for texts in scores.by_text.values() for named in texts.values() for one in named.values()]
    over_seeds = any(isinstance(one, Spread) for one in numbers)
    band = "one standard deviation over seeds" if over_seeds else "95% intervals"
    publish_figure(lambda: _draw(methods, band), path, overwrite)


def _point(model: str, by_text: Mapping[str, Mapping[str, Number]]) -> _Point | None:
    losses = {text: numbers["loss"] for text, numbers in by_text.items() if "loss" in numbers}
    forget = [_with_ends(number) for text, number in losses.items() if is_forgotten(text)]
    keep = [_with_ends(number) for text, number in losses.items() if not is_forgotten(text)]
    found = _ALPHA.search(model)
    return _Point(float(found[1]) if found else None, _mean(forget), _mean(keep)) if forget and keep else None


def _with_ends(number: Number) -> tuple[float, float, float]:
    if isinstance(number, Spread):
        spread = number.spread or 0.0
        return number.value, number.value - spread, number.value + spread
    if number.low is None or number.high is None:
        return number.value, number.value, number.value
    return number.value, number.low, number.high


def _mean(numbers: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    value, low, high = (sum(ends) / len(numbers) for ends in zip(*numbers, strict=True))
    return value, low, high


def _draw(methods: Mapping[str, list[_Point]], band: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, (name, points) in enumerate(methods.items()):
        look: dict[str, Any] = {
            "color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": 4.5,
        }
        label = name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
        _draw_curve(left, [point for point in points if point.alpha is not None], look)
        _draw_costs(right, points, look, label)
        if all(point.alpha is None for point in points):
            for point in points:
                left.axhline(point.forget[0], color=look["color"], linestyle=(0, (4, 3)), linewidth=1.1)
    left.set_title(f"Forget loss (nats per token), {band}", loc="left", fontsize=11)
    left.set_xlabel("alpha; dashed: models without one")
    right.set_title("Retain loss against forget loss", loc="left", fontsize=11)
    right.set_xlabel("forget loss (higher is better)")
    right.set_ylabel("retain loss (lower is better)")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return figure


def _draw_curve(axes: Axes, points: list[_Point], look: Mapping[str, Any]) -> None:
    rows = sorted((point.alpha or 0.0, *point.forget) for point in points)
    if rows:
        alphas, values, lows, highs = zip(*rows, strict=True)
        axes.fill_between(alphas, lows, highs, color=look["color"], alpha=0.15, linewidth=0)
        axes.plot(alphas, values, **look)


def _draw_costs(axes: Axes, points: list[_Point], look: Mapping[str, Any], label: str) -> None:
    rows = sorted(points, key=lambda point: point.alpha or 0.0)
    xs, ys = [row.forget for row in rows], [row.keep for row in rows]
    bars = [[[value - low for value, low, _ in ends], [high - value for value, _, high in ends]] for ends in (xs, ys)]
    places = [x for x, _, _ in xs], [y for y, _, _ in ys]
    axes.errorbar(*places, xerr=bars[0], yerr=bars[1], fmt="none", ecolor=look["color"], elinewidth=0.9, alpha=0.45)
    axes.plot(*places, linewidth=1.4, label=label, **look)
