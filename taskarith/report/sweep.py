"""A sweep as tables, sentences and figures: loss against alpha, and retain loss against forget loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.report.plot import COLOURS, GREY, MARKERS, band, save_figure
from taskarith.report.tables import TableRows, fitted
from taskarith.sweeps.reasons import unconfirmed
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


def sweep_table(result: Sweep) -> list[TableRows]:
    """Return a table of all edits on all samples: forget loss, retain loss and its rise, and marks."""
    rouge = any("rouge_l_f1" in numbers for by_text in result.scores.by_text.values() for numbers in by_text.values())
    heads = ["edit", "forget loss", *(["ROUGE-L"] if rouge else []), "retain loss", "rise", ""]
    rows = [
        (
            _label(row),
            _cell(row.forget),
            *([_rouge(result, row)] if rouge else []),
            f"{row.keep.value:.3f}",
            _cell(row.rise, signed=True),
            ", ".join(_marks(result, number)),
        )
        for number, row in enumerate(result.rows)
    ]
    return fitted(TableRows("all samples: means over texts, 95% intervals", tuple(heads), tuple(rows)))


def sweep_remarks(result: Sweep) -> list[str]:
    """Return what was chosen and why, then caveats."""
    remarks = [f"{'chosen' if result.chosen is not None else 'nothing chosen'}: {result.reason}"]
    if result.holds is False:
        remarks.append(f"on {unconfirmed(result.missed)}")
    if result.chosen is not None and result.cliff is not None and _is_beyond(result):
        cliff = result.rows[result.cliff].alpha
        remarks.append(f"it is at or beyond the cliff at alpha {cliff:g}, where the retain loss begins to rise fast")
    if result.halves.single:
        remarks.append(
            f"only one sample or prompt: {', '.join(result.halves.single)}; used both to choose and to report"
        )
    return remarks


def plot_sweep(result: Sweep, folder: Path) -> tuple[Path, Path]:
    """Plot ``curve.svg`` and ``curve.png``: the loss of each text against alpha, and the Pareto front.

    A search has no curve over alpha: its trials are plotted with the front, on the validation half.
    """
    return save_figure(lambda: _draw(result), folder / "curve")


def _is_beyond(result: Sweep) -> bool:
    chosen, cliff = result.chosen or 0, result.cliff or 0
    return abs(result.rows[chosen].alpha) >= abs(result.rows[cliff].alpha)


def _label(row: SweepRow) -> str:
    head, _, tail = row.name.rpartition(" trial ")
    return f"trial {tail}" if head else f"alpha {row.alpha:g}"


def _marks(result: Sweep, number: int) -> list[str]:
    marks = ["front"] if number in result.front else []
    marks += ["cliff"] if number == result.cliff else []
    return marks + (["chosen"] if number == result.chosen else [])


def _cell(number: Estimate, *, signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    if number.low is None or number.high is None:
        return f"{number.value:{form}}"
    return f"{number.value:{form}} [{number.low:{form}}, {number.high:{form}}]"


def _rouge(result: Sweep, row: SweepRow) -> str:
    by_text = result.scores.by_text[row.name]
    values = [
        numbers["rouge_l_f1"].value
        for text, numbers in by_text.items()
        if is_forgotten(text) and "rouge_l_f1" in numbers
    ]
    return f"{sum(values) / len(values):.3f}" if values else "-"


def _draw(result: Sweep) -> Figure:
    from matplotlib.figure import Figure

    is_search = bool(result.trials)
    figure = Figure(figsize=(6.2 if is_search else 11.0, 4.6), layout="constrained")
    panels = [figure.subplots()] if is_search else list(figure.subplots(1, 2))
    if not is_search:
        _draw_curves(panels[0], result)
    _draw_front(panels[-1], result)
    for axes in panels:
        axes.legend(frameon=False, fontsize=8.5)
    return figure


def _draw_curves(axes: Axes, result: Sweep) -> None:
    rows = sorted(result.rows, key=lambda row: row.alpha)
    alphas = [row.alpha for row in rows]
    for index, text in enumerate(result.scores.texts):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        losses = [result.scores.by_text[row.name][text]["loss"] for row in rows]
        lows, highs = zip(*map(band, losses), strict=True)
        axes.fill_between(alphas, lows, highs, color=colour, alpha=0.15, linewidth=0)
        axes.plot(alphas, [number.value for number in losses], color=colour, marker=marker, markersize=4.5, label=text)
        if result.reference is not None and is_forgotten(text):
            level = result.scores.by_text[result.reference][text]["loss"].value
            axes.axhline(level, color=colour, linestyle=_DASHES, linewidth=1.1, label=f"{text}, reference")
    if result.cliff is not None:
        axes.axvline(result.rows[result.cliff].alpha, color=GREY, linestyle="-.", linewidth=1.2, label="cliff")
    if result.chosen is not None:
        alpha = result.rows[result.chosen].alpha
        axes.axvline(alpha, color=GREY, linestyle=":", linewidth=1.6, label=f"chosen, alpha {alpha:g}")
    axes.set_title("Loss of each text, 95% bands (nats per token)", loc="left", fontsize=11)
    axes.set_xlabel("alpha")


def _draw_front(axes: Axes, result: Sweep) -> None:
    if result.trials:
        _draw_trials(axes, result.trials)
    forget, keep = [row.forget for row in result.rows], [row.keep for row in result.rows]
    xs, ys, bars = [number.value for number in forget], [number.value for number in keep], (_bars(forget), _bars(keep))
    axes.errorbar(
        xs, ys, xerr=bars[0], yerr=bars[1], fmt="none", ecolor=COLOURS[1], elinewidth=0.9, alpha=0.45, zorder=2
    )
    axes.plot(xs, ys, linestyle="none", marker="o", markersize=4.5, color=COLOURS[1], label="edits, all samples")
    front = list(result.front)
    axes.plot([xs[i] for i in front], [ys[i] for i in front], color=COLOURS[1], linewidth=1.6, label="Pareto front")
    for row, x, y in zip(result.rows, xs, ys, strict=True):
        axes.annotate(_label(row).removeprefix("alpha "), (x, y), (4, -11), textcoords="offset points", fontsize=8)
    if result.chosen is not None:
        point = xs[result.chosen], ys[result.chosen]
        axes.plot(*point, "o", markersize=11, markerfacecolor="none", color=COLOURS[0], label="chosen")
    if result.reference is not None:
        by_text = result.scores.by_text[result.reference]
        level = [numbers["loss"].value for text, numbers in by_text.items() if is_forgotten(text)]
        axes.axvline(sum(level) / len(level), color=GREY, linestyle=_DASHES, linewidth=1.1, label="reference")
    axes.set_title("Retain loss against forget loss, means", loc="left", fontsize=11)
    axes.set_xlabel("forget loss (higher is better)")
    axes.set_ylabel("retain loss (lower is better)")


def _draw_trials(axes: Axes, trials: tuple[Trial, ...]) -> None:
    points = [(trial.point.forget_loss, trial.point.keep_loss) for trial in trials]
    label = "trials, validation half"
    axes.plot(*zip(*points, strict=True), "x", markersize=4, color=GREY, alpha=0.7, label=label)
    front = [points[number] for number in pareto_front(points)]
    axes.plot(*zip(*front, strict=True), color=GREY, linewidth=1.1, alpha=0.7, label="their Pareto front")


def _bars(numbers: Sequence[Estimate]) -> list[list[float]]:
    """Return the distances from values down and up to the ends of their intervals."""
    return [
        [number.value - band(number)[0] for number in numbers],
        [band(number)[1] - number.value for number in numbers],
    ]
