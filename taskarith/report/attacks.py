"""Attacks as rows of text and as curves: what each brings back, beside a model that never knew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskarith.attacks.attack import AttackResult
from taskarith.attacks.recovery import BEFORE, EDITED, RETAIN, Cell, Outcome
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
"""Metrics of samples; the others are of prompts."""
_NONE = "-"


def attack_tables(result: AttackResult) -> list[TableRows]:
    """Return a table for each metric, with one row for each state and attack.

    Beside the value the samples or prompts that it rests on; as ``never`` that of the model that never knew under the
    same attack; as ``back`` what the attack recovers of the gap between the edited model and the one before the edit,
    and as ``beyond`` what of it the same attack does not give to the model that never knew, both with 95% intervals.
    """
    shown = _shown(result.outcomes)
    tables = []
    for metric, title in _COLUMNS.items():
        rows = [(found, found.cells[metric]) for found in shown if metric in found.cells]
        if rows:
            tables.append(_table(result, metric, title, rows))
    return tables


def _table(result: AttackResult, metric: str, title: str, rows: Sequence[tuple[Outcome, Cell]]) -> TableRows:
    known, scaled = RETAIN in result.models, BEFORE in result.models
    unit = "samples" if metric in _OF_SAMPLES else "prompts"
    columns = ["attack", unit, title, *["never"] * known]
    columns += ["back", "95%", *["beyond", "95%"] * known] if scaled else []
    lines = [(_title(found), *_cells(cell, known=known, scaled=scaled)) for found, cell in rows]
    if metric in result.untouched.get(BEFORE, {}):
        value = f"{result.untouched[BEFORE][metric]:.3f}"
        lines.insert(0, ("before the edit", str(rows[0][1].n), value, *[_NONE] * (len(columns) - 3)))
    return TableRows(f"{result.models[EDITED]} under attack, by {title}", tuple(columns), tuple(lines))


def attack_remarks(result: AttackResult) -> list[str]:
    """Return a sentence for the strongest attack by each metric, and one for each number that is missing."""
    remarks = []
    chosen = {one.metric: one for one in result.strongest}
    for metric, title in _COLUMNS.items():
        cells = [found.cells[metric] for found in _shown(result.outcomes) if metric in found.cells]
        reasons = [cell.lacking for cell in cells if cell.lacking]
        if reasons and len(reasons) == len(cells):
            remarks.append(f"no shares by {title}: {reasons[0]}")
        elif metric in chosen:
            remarks.append(_sentence(chosen[metric], title))
    return [*remarks, *result.missing]


def _sentence(found: Strongest, title: str) -> str:
    """Say which attack is the strongest, and what that is worth."""
    unit = "samples" if found.metric in _OF_SAMPLES else "prompts"
    few = f"; {found.few} more rest on fewer than {LEAST} {unit}" if found.few else ""
    if not found.attacks:
        return f"by {title} no attack is called the strongest: at most {found.most} {unit} count, {LEAST} are needed"
    if found.outcome is None or found.interval is None:
        return (
            f"by {title} no attack is called the strongest: for {found.attacks} at once, {found.most} {unit} do not "
            f"tell what the edit took from nothing{few}"
        )
    low, high = (_percent(end) for end in found.interval)
    what = (
        f"{_title(found.outcome)}: {_share(found.beyond)} beyond never knowing ({low} to {high}, 95% for all at once)"
    )
    if found.is_apart:
        return f"by {title} the strongest of {found.attacks} attacks is {what}{few}"
    return f"by {title} none of {found.attacks} attacks is shown to bring anything back; the nearest is {what}{few}"


def plot_recovery(result: AttackResult, folder: Path) -> tuple[Path, Path] | None:
    """Draw what relearning brings back against its steps, on the part of the text that was held out.

    :param folder: Where to put ``recovery.svg`` and ``recovery.png``.
    :return: Their paths; None without relearning.
    """
    curves = _curves(result.outcomes)
    return save_figure(lambda: _draw(curves), folder / "recovery") if curves else None


@dataclass(frozen=True)
class _Curve:
    """One line of the figure: what is relearned by which model, its value of each metric at each step, and its look."""

    label: str
    points: Sequence[Outcome]
    value: Callable[[Cell], float | None]
    look: dict[str, Any]


def _shown(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Leave out of the table: relearning nothing, and all of the text but at the last step."""
    last = {found.name: found.steps for found in sorted(outcomes, key=lambda found: found.steps)}
    return [
        found
        for found in outcomes
        if found.attack != "relearn" or (found.steps and (found.steps == last[found.name] or found.view == "held out"))
    ]


def _title(found: Outcome) -> str:
    if found.attack == "none":
        return found.name
    if found.attack != "relearn":
        return f"{found.attack}: {found.name}"
    what = {"forget text": "relearn", "half of the forget text": "relearn half"}.get(found.name, found.name)
    return f"{what}: {found.steps} step{'s' * (found.steps > 1)}, {found.view}"


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
    held = [found for found in outcomes if found.attack == "relearn" and found.view == "held out"]
    for index, name in enumerate(dict.fromkeys(found.name for found in held)):
        points = [found for found in held if found.name == name]
        look = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 4.5, "linewidth": 1.8}
        curves.append(_Curve(f"edited, relearning the {name}", points, lambda cell: cell.value, look))
        if points[0].cells["loss"].retain is not None:  # the same colour: the two are to be compared
            look = look | {"linestyle": (0, (4, 3)), "markerfacecolor": "white"}
            curves.append(_Curve(f"never knew, learning the {name}", points, lambda cell: cell.retain, look))
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
        "What relearning brings back of the text that the attacker did not have",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
    )
    handles = [Line2D([], [], label=curve.label, **curve.look) for curve in curves]
    if curves[0].points[0].before:
        handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1.6, label="before the edit"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False)
    return figure


def _draw_panel(axes: Axes, curves: Sequence[_Curve], metric: str) -> None:
    for curve in curves:
        cells = [(point.steps, point.cells[metric]) for point in curve.points if metric in point.cells]
        if cells:
            axes.plot([step for step, _ in cells], [curve.value(cell) for _, cell in cells], **curve.look)
    level = curves[0].points[0].before.get(metric)
    if level is not None:
        axes.axhline(level, color=GREY, linestyle=":", linewidth=1.6, zorder=1)
    axes.set_ylim(bottom=0)
    if metric == "accuracy":
        axes.set_ylim(top=1)
