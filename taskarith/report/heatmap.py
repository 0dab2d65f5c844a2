"""Heat maps of the cosines between task vectors, by kind of module and by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from taskarith.relations.relate import Relation
from taskarith.report.plot import publish_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_relations", "plot_relations"]

_MIN_LIMIT = 0.1  # minimum end of the colour scale
_DIGITS, _LABELS = 16, 40  # maximum columns with numbers, and maximum labels
_STYLE = {"svg.hashsalt": "taskarith", "pdf.fonttype": 42, "font.size": 10.0}


def plot_relations(relation: Relation, path: Path, *, overwrite: bool = False) -> None:
    """Plot the cosines of all pairs as two heat maps, by kind of module and by layer.

    :param relation: What to plot.
    :param path: ``*.svg``, ``*.png`` or ``*.pdf``.
    :param overwrite: Replace an existing plot of taskarith.
    :raises OutputError: A file may not be replaced, or cannot be written.
    """
    publish_figure(lambda: _draw(relation), path, overwrite, _STYLE)


def draw_relations(relation: Relation, folder: Path) -> None:
    """Plot the same as ``cosines.svg`` and ``cosines.png`` into a folder."""
    save_figure(lambda: _draw(relation), folder / "cosines", _STYLE)


def _draw(relation: Relation) -> Figure:
    from matplotlib.figure import Figure

    weights, pairs = relation.weights, relation.pairs
    groups = [("all", weights.group()), ("no embeddings", weights.without_embeddings())]
    groups += [(kind, weights.of_kind(kind)) for kind in weights.kinds]
    titles = [f"{relation.names[i]} - {relation.names[j]}" for i, j in pairs]
    kinds = np.array([[_value(group.cosine(*pair)) for _, group in groups] for pair in pairs])
    layers = np.array([[_value(weights.of_layer(layer).cosine(*pair)) for layer in weights.layers] for pair in pairs])
    rows = 2 if weights.layers else 1
    figure = Figure(figsize=(11.0, rows * (1.6 + 0.42 * len(pairs))), layout="constrained")
    panels = np.atleast_1d(np.asarray(figure.subplots(rows, 1)))
    _panel(panels[0], kinds, titles, [name for name, _ in groups], "Cosines by kind of module", digits=True)
    if weights.layers:
        names = [str(layer) for layer in weights.layers]
        _panel(panels[1], layers, titles, names, "Cosines by layer", digits=len(names) <= _DIGITS)
    figure.suptitle("How the task vectors relate as weights", x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def _panel(axes: Axes, values: np.ndarray, rows: list[str], columns: list[str], title: str, *, digits: bool) -> None:
    """Draw one heat map with its own scale: red for opposed, blue for aligned, white for 0."""
    limit = max(_MIN_LIMIT, float(np.nanmax(np.abs(values), initial=0.0)))
    image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axes.figure.colorbar(image, ax=axes, aspect=12)
    axes.set_title(title, loc="left", fontsize=11)
    step = -(-len(columns) // _LABELS)
    axes.set_xticks(range(0, len(columns), step), columns[::step])
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.ndindex(values.shape) if digits else ():
        value = values[row, column]
        colour = "white" if abs(value) > 0.6 * limit else "black"
        axes.text(column, row, "-" if np.isnan(value) else f"{value:.2f}", ha="center", va="center", color=colour)


def _value(cosine: float | None) -> float:
    return float("nan") if cosine is None else cosine
