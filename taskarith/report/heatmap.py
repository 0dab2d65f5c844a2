"""A picture of how task vectors relate: their cosines by kind of module and by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taskarith.checkpoints.ownership import DRAWN_BY
from taskarith.checkpoints.publish import publish_file
from taskarith.relations.relate import Relation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_relations"]

_LEAST = 0.1  # the scale ends here where all cosines are smaller
_DIGITS, _LABELS = 16, 40  # the most columns with numbers in them, and the most labels
_STYLE = {"svg.hashsalt": "taskarith", "font.size": 10.0}
_METADATA = {".svg": {"Date": None, "Creator": DRAWN_BY}, ".png": {"Software": DRAWN_BY}}


def plot_relations(found: Relation, path: Path, *, overwrite: bool = False) -> None:
    """Draw two heat maps: cosines of all pairs, by kind of module, and by layer.

    The SVG depends on nothing but the numbers and matplotlib's version: it holds no date and no random ids.

    :param found: The relation.
    :param path: ``*.svg`` or ``*.png``.
    :param overwrite: Replace a picture of taskarith that is there.
    :raises OutputError: There is a file that may not be replaced, or it cannot be written.
    """
    import matplotlib as mpl

    style: Any = {**mpl.rcParamsDefault, "backend": "agg", **_STYLE}
    with mpl.rc_context(style), publish_file(path, overwrite) as partial:
        metadata: Any = _METADATA[path.suffix]
        _draw(found).savefig(partial, format=path.suffix[1:], dpi=150, metadata=metadata, facecolor="white")


def _draw(found: Relation) -> Figure:
    from matplotlib.figure import Figure

    weights, pairs = found.weights, found.pairs
    groups = [("all", weights.group()), ("no embeddings", weights.without_embeddings())]
    groups += [(kind, weights.of_kind(kind)) for kind in weights.kinds]
    titles = [f"{found.names[i]} - {found.names[j]}" for i, j in pairs]
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
    """Draw one map with a scale of its own: red for opposed, blue for alike, white is 0."""
    limit = max(_LEAST, float(np.nanmax(np.abs(values), initial=0.0)))
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
