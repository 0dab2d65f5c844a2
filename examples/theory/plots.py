"""Pictures of the findings, as PNG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from examples.theory.findings import Findings
from examples.theory.outside import LOW_THRESHOLD, Region
from examples.theory.regimes import ACCURATE, TOLERANCE, Curves, beta
from taskarith.report.plot import STYLE

__all__ = ["draw"]

# Okabe and Ito's colours that are dark enough on white, "Color Universal Design" (2008)
_FIRST, _SECOND, _GOOD = "#0072B2", "#D55E00", "#009E73"
_GREY = "#666666"
_LEVELS = ("#FFFFFF", "#CFE3F1", "#5DA5D0")  # nothing, accurate, learned


def draw(found: Findings, folder: Path) -> list[Path]:
    """Draw all pictures.

    :return: Their paths.
    """
    pictures: dict[str, Callable[[Findings], Figure]] = {
        "regimes": _regimes,
        "thresholds": _thresholds,
        "outside": _outside,
        "vectors": _vectors,
    }
    paths = []
    style: Any = {**mpl.rcParamsDefault, **STYLE, "backend": "agg", "font.size": 9.0}
    with mpl.rc_context(style):
        for name, picture in pictures.items():
            path = folder / f"{name}.png"
            picture(found).savefig(path, dpi=90, facecolor="white", metadata={"Software": None})
            paths.append(path)
    return paths


def _regimes(found: Findings) -> Figure:
    columns = min(3, len(found.curves))
    lines = -(-len(found.curves) // columns)
    figure = Figure(figsize=(10.0, 2.3 * lines + 0.8), layout="constrained")
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes in panels[len(found.curves) :]:
        axes.set_axis_off()
    for axes, (alpha, curves) in zip(panels, found.curves.items(), strict=False):
        _draw_losses(axes, curves)
        axes.set_title(f"α = {alpha:g}", loc="left")
        if alpha >= 0:
            axes.axvspan(1 - alpha, 2, color=_GOOD, alpha=0.13, linewidth=0)
        axes.set_ylim(0, 2)
        axes.set_xlim(-3, 2)
    for axes in panels[-columns:]:
        axes.set_xlabel("λ of the second vector")
    figure.supylabel("hinge loss on fresh inputs", fontsize=10)
    title = (
        "Base + τ₁ + λ τ₂: loss of the first and the second task; shaded: where theorem 1 says that both are learned"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.legend(handles=_line_handles(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_losses(axes: Axes, curves: Curves) -> None:
    for losses, colour in zip(curves.loss, (_FIRST, _SECOND), strict=True):
        axes.fill_between(curves.lambdas, losses.min(0), losses.max(0), color=colour, alpha=0.25, linewidth=0)
        axes.plot(curves.lambdas, losses.mean(0), color=colour, linewidth=1.6)
    axes.axhline(1, color=_GREY, linestyle=":", linewidth=1.2)
    lambdas = np.asarray(curves.lambdas)
    both = (curves.loss.max((0, 1)) <= TOLERANCE) & (lambdas >= -3)
    axes.plot(lambdas[both], np.full(both.sum(), 0.03), "|", color=_GOOD, markersize=9, markeredgewidth=2.2)


def _line_handles() -> list[Any]:
    return [
        Line2D([], [], color=_FIRST, label="T1 (band: all seeds)"),
        Line2D([], [], color=_SECOND, label="T2"),
        Line2D([], [], color=_GOOD, marker="|", linestyle="", markersize=9, label=f"both ≤ {TOLERANCE} in all seeds"),
        Line2D([], [], color=_GREY, linestyle=":", label="a model that knows nothing"),
    ]


def _thresholds(found: Findings) -> Figure:
    figure = Figure(figsize=(10.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    aligned = [r for r in found.regimes if r.alpha >= 0]
    margin = float(np.mean(found.margin))
    line = np.array([0.0, 1.0])
    left.plot(line, 1 - line, color=_GREY, linestyle="--", label="theorem 1: 1 - α")
    scaled = np.maximum(0, (1 - TOLERANCE) / margin - line)
    left.plot(
        line, scaled, color=_GREY, linestyle=":", label=f"{1 - TOLERANCE:g}/g - α, g = {margin:.2f} the trained margin"
    )
    for regime in aligned:
        left.plot([regime.alpha] * found.seeds, regime.addition, "o", color=_GOOD, markersize=5, alpha=0.6)
    left.plot([], [], "o", color=_GOOD, label="measured, each seed")
    left.set(xlabel="α", ylabel="least λ that learns both", title="Addition", xlim=(-0.03, 1.0), ylim=(-0.05, 1.1))
    left.legend(frameon=False)
    _draw_negation(right, found)
    return figure


def _draw_negation(axes: Axes, found: Findings) -> None:
    for regime in found.regimes:
        low, high = np.array(regime.negation).T
        if np.isfinite(low).all():
            width = max(high.mean() - low.mean(), 0.02)
            axes.barh(regime.alpha, width, left=low.mean(), height=0.09, color=_GOOD)
        else:
            axes.annotate("no λ", (0.05, regime.alpha), va="center", color=_GREY)
        if regime.alpha < 0:
            axes.plot(max(np.mean(regime.kept), -6), regime.alpha, "<", color=_FIRST, markersize=6)
    negative = np.linspace(-0.95, -0.4, 100)
    axes.plot(-(negative**-2), negative, color=_GREY, linestyle="--", label="theorem 2 (B): -α⁻²")
    axes.plot([], [], "<", color=_FIRST, label="T1 is kept down to here (-6: end of the grid)")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="λ", ylabel="α", title="Negation", xlim=(-6.2, 1.4))
    axes.set_yticks([r.alpha for r in found.regimes])
    handles = [*axes.get_legend_handles_labels()[0], Patch(color=_GOOD, label="T2 forgotten, T1 kept (mean of seeds)")]
    axes.legend(handles=handles, frameon=False, loc="upper left", fontsize=8)


def _outside(found: Findings) -> Figure:
    count = len(found.regions)
    figure = Figure(figsize=(10.0, 10.0 / count + 1.3), layout="constrained")
    panels = figure.subplots(1, count, sharey=True, squeeze=False).flat
    panels[0].set_ylabel("λ₂")
    for axes, region in zip(panels, found.regions, strict=True):
        _draw_region(axes, region, beta(found.regimes))
    figure.suptitle(
        "A task no vector was trained on: where it is learned, and theorem 3's region",
        x=0.01,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    figure.legend(handles=_region_handles(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def _draw_region(axes: Axes, region: Region, excess: float) -> None:
    levels = region.accurate.all(0).astype(int) + region.learned.all(0)
    step = region.axis[1] - region.axis[0]
    edge = (region.axis[0] - step / 2, region.axis[-1] + step / 2)
    axes.imshow(levels.T, origin="lower", extent=(*edge, *edge), cmap=ListedColormap(_LEVELS), vmin=0, vmax=2)
    fine = np.linspace(*edge, 400)
    one, two = np.meshgrid(fine, fine)
    c = excess * np.maximum(abs(one), abs(two))
    values = region.gamma[0] * one + region.gamma[1] * two
    attention = region.gamma[0] ** 2 * one + region.gamma[1] ** 2 * two
    for level, colour, style in ((1 + c, _SECOND, "-"), (LOW_THRESHOLD, "black", "--")):
        axes.contour(fine, fine, np.minimum(values, attention) - level, levels=[0], colors=[colour], linestyles=style)
    if region.least:
        axes.plot(*region.least, "*", color="#F0E442", markeredgecolor="black", markersize=13)
    axes.set_title(f"γ = ({region.gamma[0]:g}, {region.gamma[1]:g})", loc="left")
    axes.set_xlabel("λ₁")
    axes.grid(visible=False)


def _region_handles() -> list[Any]:
    return [
        Patch(color=_LEVELS[2], label=f"loss ≤ {TOLERANCE} in every seed"),
        Patch(color=_LEVELS[1], label=f"accuracy ≥ {ACCURATE} only"),
        Line2D([], [], color=_SECOND, label="theorem 3 to the letter"),
        Line2D([], [], color="black", linestyle="--", label=f"right-hand side {LOW_THRESHOLD}"),
        Line2D(
            [],
            [],
            color="#F0E442",
            marker="*",
            markeredgecolor="black",
            linestyle="",
            markersize=12,
            label="least max|λ|",
        ),
    ]


def _vectors(found: Findings) -> Figure:
    figure = Figure(figsize=(10.0, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    steps = found.history.step
    for values, colour, label in (
        (found.history.mass, _FIRST, "attention on the label's tokens"),
        (found.history.loss, _SECOND, "hinge loss"),
    ):
        array = np.array(values)
        left.fill_between(steps, array.min(1), array.max(1), color=colour, alpha=0.25, linewidth=0)
        left.plot(steps, array.mean(1), color=colour, label=label)
    left.set(xlabel="step", title="Training on one task", ylim=(0, 1.05))
    left.legend(frameon=False, loc="center right")
    norms = np.array(found.norms)
    small = norms < np.sort(norms)[round(found.rows.small[0] * len(norms))]
    bins = np.linspace(0, norms.max(), 60).tolist()
    middle.hist(norms[small], bins, color=_SECOND, label="lower group: pruned for free")
    middle.hist(norms[~small], bins, color=_FIRST, label="upper group")
    middle.set(xlabel="norm", title="Rows of ΔV, one seed", ylabel="rows")
    middle.legend(frameon=False)
    _draw_changes(right, found)
    return figure


def _draw_changes(axes: Axes, found: Findings) -> None:
    whole = found.checks["whole"]
    names = [name for name in found.checks if name != "whole"]
    for row, name in enumerate(names):
        pairs = [
            (np.array(new[0]) - np.array(old[0]))
            for title in whole
            for old, new in zip(whole[title], found.checks[name][title], strict=True)
        ]
        changes = np.concatenate(pairs)
        axes.plot(changes, np.full(len(changes), row), "o", color=_FIRST, alpha=0.25, markersize=4)
    labels = ["rank 1", "small rows\npruned", "as many\nrandom rows", "as many\nlargest rows"]
    axes.set_yticks(range(len(names)), labels[: len(names)])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(title="Edits with changed vectors", xlabel="change of the hinge loss")
