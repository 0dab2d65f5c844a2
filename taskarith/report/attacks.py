"""Results of attacks as tables and curves: what each recovers, compared with a model that never saw the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskarith.attacks.recovery import BEFORE, EDITED, RETAIN, Cell, Outcome
from taskarith.attacks.result import AttackResult
from taskarith.attacks.strongest import LEAST, Strongest
from taskarith.report.plot import COLOURS, GREY, MARKERS, save_figure
from taskarith.report.tables import TableRows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["attack_remarks", "attack_tables", "plot_recovery"]

_METRICS = {
    "rouge_l_f1": "ROUGE-L of continuations",
    "accuracy": "Top-1 accuracy",
    "loss": "Loss (nats per token)",
}
_COLUMNS = {"loss": "loss", "accuracy": "accuracy", "rouge_l_f1": "ROUGE-L"}
_OF_SAMPLES = ("loss", "accuracy")
"""Metrics measured on samples; the others are measured on prompts."""
_NONE = "-"


def attack_tables(result: AttackResult) -> list[TableRows]:
    """Return a table for each metric, with one row for each attack.

    Columns: the number of samples or prompts, the value, and ``never``, the value of the model that never saw the text
    under the same attack; ``back``, the share of the gap between the edited model and the one before the edit that the
    attack recovers; ``beyond``, the part of that share which the same attack does not give the model that never saw
    the text. Shares have 95% intervals.
    """
    shown = _shown(result.outcomes)
    tables = []
    for metric, title in _COLUMNS.items():
        rows = [(outcome, outcome.cells[metric]) for outcome in shown if metric in outcome.cells]
        if rows:
            tables.append(_table(result, metric, title, rows))
    return tables


def _table(result: AttackResult, metric: str, title: str, rows: Sequence[tuple[Outcome, Cell]]) -> TableRows:
    known, scaled = RETAIN in result.models, BEFORE in result.models
    unit = "samples" if metric in _OF_SAMPLES else "prompts"
    columns = ["attack", unit, title, *["never"] * known]
    columns += ["back", "95%", *["beyond", "95%"] * known] if scaled else []
    lines = [(outcome.title, *_cells(cell, known=known, scaled=scaled)) for outcome, cell in rows]
    if metric in result.untouched.get(BEFORE, {}):
        value = f"{result.untouched[BEFORE][metric]:.3f}"
        lines.insert(0, ("before the edit", str(rows[0][1].n), value, *[_NONE] * (len(columns) - 3)))
    return TableRows(f"{result.models[EDITED]} under attack, by {title}", tuple(columns), tuple(lines))


def attack_remarks(result: AttackResult) -> list[str]:
    """Return a sentence on the strongest attack by each metric, and one on each missing number."""
    remarks = []
    chosen = {strongest.metric: strongest for strongest in result.strongest}
    for metric, title in _COLUMNS.items():
        cells = [outcome.cells[metric] for outcome in _shown(result.outcomes) if metric in outcome.cells]
        reasons = [cell.lacking for cell in cells if cell.lacking]
        if reasons and len(reasons) == len(cells):
            remarks.append(f"no shares by {title}: {reasons[0]}")
        elif metric in chosen:
            remarks.append(_sentence(chosen[metric], title))
    return [*remarks, *result.missing]


def _sentence(strongest: Strongest, title: str) -> str:
    """Return a sentence that names the strongest attack and what it recovers."""
    unit = "samples" if strongest.metric in _OF_SAMPLES else "prompts"
    few = f"; {strongest.few} more are based on fewer than {LEAST} {unit}" if strongest.few else ""
    if not strongest.attacks:
        return f"by {title} no attack is named strongest: at most {strongest.most} {unit} count, {LEAST} are needed"
    if strongest.outcome is None or strongest.interval is None:
        return (
            f"by {title} no attack is named strongest: for {strongest.attacks} attacks at once, {strongest.most} "
            f"{unit} do not show that the edit removed anything{few}"
        )
    low, high = (_percent(end) for end in strongest.interval)
    share = f"{_share(strongest.beyond)} beyond never knowing ({low} to {high}, 95% for all at once)"
    best = f"{strongest.outcome.title}: {share}"
    if strongest.is_apart:
        return f"by {title} the strongest of {strongest.attacks} attacks is {best}{few}"
    return f"by {title} none of {strongest.attacks} attacks is shown to recover anything; closest: {best}{few}"


def plot_recovery(result: AttackResult, folder: Path) -> tuple[Path, Path] | None:
    """Plot what relearning recovers against its steps, on the held-out part of the text.

    :param folder: Folder for ``recovery.svg`` and ``recovery.png``.
    :return: Their paths; None without relearning.
    """
    curves = _curves(result.outcomes)
    return save_figure(lambda: _draw(curves), folder / "recovery") if curves else None


@dataclass(frozen=True)
class _Curve:
    """One line of the figure: its label, its outcomes, how to read a value from a cell, and its style."""

    label: str
    points: Sequence[Outcome]
    value: Callable[[Cell], float | None]
    style: dict[str, Any]


def _shown(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes to tabulate: without relearning at step 0, and on the whole text only at the last step."""
    last = {outcome.name: outcome.steps for outcome in sorted(outcomes, key=lambda outcome: outcome.steps)}
    return [
        outcome
        for outcome in outcomes
        if outcome.attack != "relearn"
        or (outcome.steps and (outcome.steps == last[outcome.name] or outcome.view == "held out"))
    ]


def _cells(cell: Cell, *, known: bool, scaled: bool) -> list[str]:
    texts = [str(cell.n), f"{cell.value:.3f}"]
    if known:
        texts.append(_NONE if cell.retain is None else f"{cell.retain:.3f}")
    if scaled:
        texts += [_share(cell.recovered), _ends(cell.recovered_interval)]
    if scaled and known:
        texts += [_share(cell.beyond), _ends(cell.beyond_interval)]
    return texts


def _share(share: float | None) -> str:
    return _NONE if share is None else _percent(share)


def _ends(interval: tuple[float, float] | None) -> str:
    return _NONE if interval is None else " to ".join(map(_percent, interval))


def _percent(share: float) -> str:
    return f"{round(share, 2) + 0.0:.0%}"  # without -0%


def _curves(outcomes: Sequence[Outcome]) -> list[_Curve]:
    curves = []
    held = [outcome for outcome in outcomes if outcome.attack == "relearn" and outcome.view == "held out"]
    for index, name in enumerate(dict.fromkeys(outcome.name for outcome in held)):
        points = [outcome for outcome in held if outcome.name == name]
        given = name if name.startswith("half of") else f"the {name}"
        style = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 4.5, "linewidth": 1.8}
        curves.append(_Curve(f"edited, relearning {given}", points, lambda cell: cell.value, style))
        if points[0].cells["loss"].retain is not None:  # same colour, to compare the two
            style = style | {"linestyle": (0, (4, 3)), "markerfacecolor": "white"}
            curves.append(_Curve(f"never saw the text, learning {given}", points, lambda cell: cell.retain, style))
    return curves


def _draw(curves: Sequence[_Curve]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, len(_METRICS)), _METRICS.items(), strict=True):
        _draw_panel(axes, curves, metric)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("steps of relearning")
    figure.suptitle(
        "What relearning recovers of the text that the attacker did not have",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
    )
    handles = [Line2D([], [], label=curve.label, **curve.style) for curve in curves]
    if curves[0].points[0].before:
        handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1.6, label="before the edit"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False)
    return figure


def _draw_panel(axes: Axes, curves: Sequence[_Curve], metric: str) -> None:
    for curve in curves:
        cells = [(point.steps, point.cells[metric]) for point in curve.points if metric in point.cells]
        if cells:
            axes.plot([step for step, _ in cells], [curve.value(cell) for _, cell in cells], **curve.style)
    level = curves[0].points[0].before.get(metric)
    if level is not None:
        axes.axhline(level, color=GREY, linestyle=":", linewidth=1.6, zorder=1)
    axes.set_ylim(bottom=0)
    if metric == "accuracy":
        axes.set_ylim(top=1)
