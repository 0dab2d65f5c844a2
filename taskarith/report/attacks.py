"""Attacks as rows of text and as curves: what each brings back, beside a model that never knew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskarith.attacks.attack import AttackResult
from taskarith.attacks.outcome import BEFORE, EDITED, RETAIN, Cell, Outcome
from taskarith.report.plot import COLOURS, GREY, MARKERS, save_figure
from taskarith.report.tables import TableRows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["attack_remarks", "attack_table", "plot_recovery"]

_METRICS = {
    "rouge_l_f1": "ROUGE-L of continuations",
    "accuracy": "Top-1 accuracy",
    "loss": "Loss (nats per token)",
}
_COLUMNS = {"loss": "loss", "accuracy": "accuracy", "rouge_l_f1": "ROUGE-L"}
_NONE = "-"


def attack_table(result: AttackResult) -> TableRows:
    """Return one row for each state and attack.

    Of each metric the value, as ``never`` that of the model that never knew under the same attack, as ``back`` what the
    attack recovers of the gap between the edited model and the one before the edit, and as ``beyond`` what of it the
    same attack does not give to the model that never knew.
    """
    known = RETAIN in result.models
    columns = ["attack"]
    for title in _COLUMNS.values():
        columns += [title, "never", "back", "beyond"] if known else [title, "back"]
    rows = []
    if BEFORE in result.untouched:
        cells = {name: Cell(value, None, None, None) for name, value in result.untouched[BEFORE].items()}
        rows.append(("before the edit", *_cells(cells, known)))
    rows += [(_title(found), *_cells(found.cells, known)) for found in _shown(result.outcomes)]
    prompts = max((found.prompts for found in result.outcomes), default=0)
    return TableRows(f"{result.models[EDITED]} under attack: {prompts} prompts", tuple(columns), tuple(rows))


def attack_remarks(result: AttackResult) -> list[str]:
    """Return a sentence for the strongest attack by each metric, and one for each number that is missing."""
    remarks = []
    attacks = [found for found in _shown(result.outcomes) if found.attack != "none" and not _is_given(found)]
    for metric, title in _COLUMNS.items():
        cells = [(found, found.cells[metric]) for found in attacks if metric in found.cells]
        if cells and BEFORE in result.models and all(cell.recovered is None for _, cell in cells):
            remarks.append(f"no shares by {title}: before the edit the model knows the text no better than after it")
        beyond = [(found, cell.beyond) for found, cell in cells if cell.beyond is not None]
        if beyond:
            found, share = max(beyond, key=lambda pair: pair[1])
            remarks.append(f"by {title} the strongest attack is {_title(found)}: {_share(share)} beyond never knowing")
    return [*remarks, *result.missing]


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
    last = max((found.steps for found in outcomes), default=0)
    return [
        found
        for found in outcomes
        if found.attack != "relearn" or found.steps == last or (found.steps and found.view == "held out")
    ]


def _is_given(found: Outcome) -> bool:
    """Whether samples count that the attacker was given: nothing is hidden in what is learned from them."""
    return found.attack == "relearn" and found.view == "all"


def _title(found: Outcome) -> str:
    if found.attack == "none":
        return found.name
    if found.attack != "relearn":
        return f"{found.attack}: {found.name}"
    what = "relearn" if found.name == "forget text" else found.name
    return f"{what}: {found.steps} steps, {found.view}"


def _cells(cells: dict[str, Cell], known: bool) -> list[str]:
    texts: list[str] = []
    for metric in _COLUMNS:
        cell = cells.get(metric)
        if cell is None:
            texts += [_NONE] * (4 if known else 2)
            continue
        texts.append(f"{cell.value:.3f}")
        texts += [_NONE if cell.retain is None else f"{cell.retain:.3f}"] if known else []
        texts.append(_share(cell.recovered))
        texts += [_share(cell.beyond)] if known else []
    return texts


def _share(share: float | None) -> str:
    return _NONE if share is None else f"{round(share, 2) + 0.0:.0%}"  # without -0%


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
