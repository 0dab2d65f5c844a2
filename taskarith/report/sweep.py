"""A sweep as tables, as a sentence, and as a figure: loss against alpha, and what is kept against what is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.evaluation.score import Number
from taskarith.report.plot import COLOURS, GREY, MARKERS, save_figure
from taskarith.report.tables import TableRows, fitted
from taskarith.sweeps.result import Sweep
from taskarith.sweeps.row import SweepRow
from taskarith.sweeps.rule import pareto_front
from taskarith.sweeps.split import is_forgotten
from taskarith.sweeps.trial import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_sweep", "sweep_remarks", "sweep_table"]

_DASHES = (0, (4, 3))


def sweep_table(found: Sweep) -> list[TableRows]:
    """Return a table of all edits on all samples: what is forgotten, what is kept, and what they are."""
    rouge = any("rouge_l_f1" in numbers for of in found.scores.by_text.values() for numbers in of.values())
    heads = ["edit", "forget loss", *(["ROUGE-L"] if rouge else []), "kept loss", "its rise", ""]
    rows = [
        (
            _label(row),
            _cell(row.forget),
            *([_rouge(found, row)] if rouge else []),
            f"{row.keep.value:.3f}",
            _cell(row.rise, signed=True),
            ", ".join(_marks(found, number)),
        )
        for number, row in enumerate(found.rows)
    ]
    return fitted(TableRows("all samples: means over texts, 95% intervals", tuple(heads), tuple(rows)))


def sweep_remarks(found: Sweep) -> list[str]:
    """Return what was chosen and why, and what to know about it."""
    remarks = [f"{'chosen' if found.chosen is not None else 'nothing chosen'}: {found.reason}"]
    if found.holds is False:
        remarks.append("on the held-out half it does not do so: give more text, or go further")
    if found.chosen is not None and found.cliff is not None and _is_beyond(found):
        cliff = found.rows[found.cliff].alpha
        remarks.append(f"it is at or beyond the cliff at alpha {cliff:g}, where what is kept begins to be lost fast")
    if found.halves.single:
        remarks.append(
            f"one sample or prompt only: {', '.join(found.halves.single)}; it is chosen on and reported on alike"
        )
    return remarks


def plot_sweep(found: Sweep, folder: Path) -> tuple[Path, Path]:
    """Draw ``curve.svg`` and ``curve.png``: the loss of each text against alpha, and the Pareto front.

    A search has no curve: its trials are drawn beside the front, on the validation half.
    """
    return save_figure(lambda: _draw(found), folder / "curve")


def _is_beyond(found: Sweep) -> bool:
    chosen, cliff = found.chosen or 0, found.cliff or 0
    return abs(found.rows[chosen].alpha) >= abs(found.rows[cliff].alpha)


def _label(row: SweepRow) -> str:
    head, _, tail = row.name.rpartition(" trial ")
    return f"trial {tail}" if head else f"alpha {row.alpha:g}"


def _marks(found: Sweep, number: int) -> list[str]:
    marks = ["front"] if number in found.front else []
    marks += ["cliff"] if number == found.cliff else []
    return marks + (["chosen"] if number == found.chosen else [])


def _cell(number: Estimate, *, signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    if number.low is None or number.high is None:
        return f"{number.value:{form}}"
    return f"{number.value:{form}} [{number.low:{form}}, {number.high:{form}}]"


def _rouge(found: Sweep, row: SweepRow) -> str:
    of = found.scores.by_text[row.name]
    values = [
        numbers["rouge_l_f1"].value for text, numbers in of.items() if is_forgotten(text) and "rouge_l_f1" in numbers
    ]
    return f"{sum(values) / len(values):.3f}" if values else "-"


def _draw(found: Sweep) -> Figure:
    from matplotlib.figure import Figure

    is_search = bool(found.trials)
    figure = Figure(figsize=(6.2 if is_search else 11.0, 4.6), layout="constrained")
    panels = [figure.subplots()] if is_search else list(figure.subplots(1, 2))
    if not is_search:
        _draw_curves(panels[0], found)
    _draw_front(panels[-1], found)
    for axes in panels:
        axes.legend(frameon=False, fontsize=8.5)
    return figure


def _draw_curves(axes: Axes, found: Sweep) -> None:
    rows = sorted(found.rows, key=lambda row: row.alpha)
    alphas = [row.alpha for row in rows]
    for index, text in enumerate(found.scores.texts):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        losses = [found.scores.by_text[row.name][text]["loss"] for row in rows]
        lows, highs = zip(*map(_band, losses), strict=True)
        axes.fill_between(alphas, lows, highs, color=colour, alpha=0.15, linewidth=0)
        axes.plot(alphas, [one.value for one in losses], color=colour, marker=marker, markersize=4.5, label=text)
        if found.reference is not None and is_forgotten(text):
            level = found.scores.by_text[found.reference][text]["loss"].value
            axes.axhline(level, color=colour, linestyle=_DASHES, linewidth=1.1, label=f"{text}, reference")
    if found.cliff is not None:
        axes.axvline(found.rows[found.cliff].alpha, color=GREY, linestyle="-.", linewidth=1.2, label="cliff")
    if found.chosen is not None:
        alpha = found.rows[found.chosen].alpha
        axes.axvline(alpha, color=GREY, linestyle=":", linewidth=1.6, label=f"chosen, alpha {alpha:g}")
    axes.set_title("Loss of each text, 95% bands (nats per token)", loc="left", fontsize=11)
    axes.set_xlabel("alpha")


def _draw_front(axes: Axes, found: Sweep) -> None:
    if found.trials:
        _draw_trials(axes, found.trials)
    forget, keep = [row.forget for row in found.rows], [row.keep for row in found.rows]
    xs, ys, bars = [one.value for one in forget], [one.value for one in keep], (_bars(forget), _bars(keep))
    axes.errorbar(
        xs, ys, xerr=bars[0], yerr=bars[1], fmt="none", ecolor=COLOURS[1], elinewidth=0.9, alpha=0.45, zorder=2
    )
    axes.plot(xs, ys, linestyle="none", marker="o", markersize=4.5, color=COLOURS[1], label="edits, all samples")
    front = list(found.front)
    axes.plot([xs[i] for i in front], [ys[i] for i in front], color=COLOURS[1], linewidth=1.6, label="Pareto front")
    for row, x, y in zip(found.rows, xs, ys, strict=True):
        axes.annotate(_label(row).removeprefix("alpha "), (x, y), (4, -11), textcoords="offset points", fontsize=8)
    if found.chosen is not None:
        place = xs[found.chosen], ys[found.chosen]
        axes.plot(*place, "o", markersize=11, markerfacecolor="none", color=COLOURS[0], label="chosen")
    if found.reference is not None:
        of = found.scores.by_text[found.reference]
        level = [numbers["loss"].value for text, numbers in of.items() if is_forgotten(text)]
        axes.axvline(sum(level) / len(level), color=GREY, linestyle=_DASHES, linewidth=1.1, label="reference")
    axes.set_title("Kept against forgotten, mean losses", loc="left", fontsize=11)
    axes.set_xlabel("loss of what is to be forgotten (more is better)")
    axes.set_ylabel("loss of what is kept (less is better)")


def _draw_trials(axes: Axes, trials: tuple[Trial, ...]) -> None:
    points = [(trial.point.forget_loss, trial.point.keep_loss) for trial in trials]
    label = "trials, validation half"
    axes.plot(*zip(*points, strict=True), "x", markersize=4, color=GREY, alpha=0.7, label=label)
    front = [points[number] for number in pareto_front(points)]
    axes.plot(*zip(*front, strict=True), color=GREY, linewidth=1.1, alpha=0.7, label="their Pareto front")


def _bars(numbers: Sequence[Estimate]) -> list[list[float]]:
    """Return how far intervals reach below and above their values."""
    return [[one.value - _band(one)[0] for one in numbers], [_band(one)[1] - one.value for one in numbers]]


def _band(number: Number) -> tuple[float, float]:
    """Return the ends of an interval, or twice the value where there is none."""
    if isinstance(number, Estimate) and number.low is not None and number.high is not None:
        return number.low, number.high
    return number.value, number.value
