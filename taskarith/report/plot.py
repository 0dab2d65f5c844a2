"""Figures of scores against alpha for several texts, as SVG and PNG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskarith.checkpoints.ownership import DRAWN_BY
from taskarith.checkpoints.publish import publish_file
from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.evaluation.score import Number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = [
    "COLOURS",
    "GREY",
    "MARKERS",
    "STYLE",
    "AlphaCurves",
    "band",
    "draw_svg",
    "plot_alphas",
    "publish_figure",
    "save_figure",
]

_METRICS = (
    ("rouge_l_f1", "ROUGE-L of continuations"),
    ("accuracy", "Top-1 accuracy"),
    ("loss", "Loss (nats per token)"),
)

# Okabe and Ito's colours that are dark enough on white, "Color Universal Design" (2008); markers and labels differ too
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#7A4988", "#000000")
MARKERS = ("o", "s", "^", "D", "v")
GREY = "#666666"
_METADATA = {
    ".svg": {"Date": None, "Creator": DRAWN_BY},
    ".png": {"Software": DRAWN_BY},
    ".pdf": {"CreationDate": None, "Creator": DRAWN_BY},
}

STYLE: dict[str, Any] = {
    "pdf.fonttype": 42,  # TrueType, which publishers take
    "svg.hashsalt": "taskarith",  # otherwise ids in the SVG are random
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
}
"""matplotlib's settings for every figure of lines."""


@dataclass(frozen=True)
class AlphaCurves:
    """The data of the figure.

    :param alphas: The coefficients, ascending.
    :param scores: Name of each text to its scores, one for each alpha.
    :param base: Scores of the model that never saw the texts, drawn as dashed lines.
    :param recommended: Alpha to mark; None for no mark.
    :param title: Of the whole figure.
    """

    alphas: Sequence[float]
    scores: Mapping[str, Sequence[Mapping[str, Number]]]
    base: Mapping[str, Mapping[str, Number]]
    recommended: float | None
    title: str


def plot_alphas(curves: AlphaCurves, stem: Path) -> tuple[Path, Path]:
    """Draw ROUGE-L, accuracy and loss of each text against alpha, three panels side by side.

    The SVG depends only on the numbers and matplotlib's version: it contains no date and no random ids.

    :param curves: The numbers; a text without ROUGE-L has no line in that panel.
    :param stem: Path of both files without suffix.
    :return: Paths of the SVG and of the PNG.
    """
    return save_figure(lambda: _draw(curves), stem)


def save_figure(draw: Callable[[], Figure], stem: Path, style: Mapping[str, Any] = STYLE) -> tuple[Path, Path]:
    """Draw a figure in the style of this package and write it as SVG and PNG.

    :param draw: Returns the figure.
    :param stem: Path of both files without suffix.
    :param style: matplotlib's settings.
    :return: Their paths.
    """
    import matplotlib as mpl

    svg, png = (stem.with_name(f"{stem.name}{suffix}") for suffix in (".svg", ".png"))
    settings: Any = {**mpl.rcParamsDefault, "backend": "agg", **style}
    with mpl.rc_context(settings):
        figure = draw()
        figure.savefig(svg, format="svg", metadata={"Date": None}, facecolor="white")
        figure.savefig(png, format="png", dpi=150, facecolor="white")
    return svg, png


def draw_svg(draw: Callable[[], Figure]) -> bytes:
    """Draw a figure in the style of this package as SVG, with neither a date nor random ids in it.

    Characters that matplotlib's font lacks are drawn as boxes.

    :param draw: Returns the figure.
    """
    import matplotlib as mpl

    file = io.BytesIO()
    settings: Any = {**mpl.rcParamsDefault, "backend": "agg", **STYLE}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        draw().savefig(file, format="svg", metadata=_METADATA[".svg"], facecolor="white")
    return file.getvalue()


def band(number: Number) -> tuple[float, float]:
    """Return the ends of an interval, or the value twice if it has none."""
    if isinstance(number, Estimate) and number.low is not None and number.high is not None:
        return number.low, number.high
    return number.value, number.value


def publish_figure(draw: Callable[[], Figure], path: Path, overwrite: bool, style: Mapping[str, Any] = STYLE) -> None:
    """Draw a figure and write it as a file that says who drew it, so that it can be replaced.

    The SVG and the PDF depend only on the numbers and matplotlib's version: no date and no random ids are in them.

    :param draw: Returns the figure.
    :param path: ``*.svg``, ``*.png`` or ``*.pdf``.
    :param overwrite: Replace an existing plot of taskarith.
    :param style: matplotlib's settings.
    :raises OutputError: A file may not be replaced, or cannot be written.
    """
    import matplotlib as mpl

    settings: Any = {**mpl.rcParamsDefault, "backend": "agg", **style}
    with mpl.rc_context(settings), publish_file(path, overwrite) as partial:
        metadata: Any = _METADATA[path.suffix]
        draw().savefig(partial, format=path.suffix[1:], dpi=150, metadata=metadata, facecolor="white")


def _draw(curves: AlphaCurves) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    panels = figure.subplots(1, len(_METRICS))
    for axes, (metric, label) in zip(panels, _METRICS, strict=True):
        _draw_panel(axes, curves, metric)
        axes.set_title(label, loc="left", fontsize=11)
        axes.set_xlabel("alpha: share of the vector subtracted")
    figure.suptitle(curves.title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    handles = _legend(curves)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _draw_panel(axes: Axes, curves: AlphaCurves, metric: str) -> None:
    for index, (text, scores) in enumerate(curves.scores.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        points = [
            (alpha, score[metric].value) for alpha, score in zip(curves.alphas, scores, strict=True) if metric in score
        ]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4.5, linewidth=1.8)
        if metric in curves.base[text]:
            level = curves.base[text][metric].value
            axes.axhline(level, color=colour, linestyle=(0, (4, 3)), linewidth=1.1, alpha=0.8)
    if curves.recommended is not None:
        axes.axvline(curves.recommended, color=GREY, linestyle=":", linewidth=1.6, zorder=1)
    axes.set_ylim(bottom=0)
    if metric == "accuracy":
        axes.set_ylim(top=1)


def _legend(curves: AlphaCurves) -> list[Line2D]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], markersize=5, label=text)
        for i, text in enumerate(curves.scores)
    ]
    handles.append(Line2D([], [], color=GREY, linestyle=(0, (4, 3)), linewidth=1.1, label="the base, untrained"))
    if curves.recommended is not None:
        label = f"recommended alpha, {curves.recommended:g}"
        handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1.6, label=label))
    return handles
