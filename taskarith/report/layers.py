"""What is left per layer: the losses of a text read at every layer, as curves, a table and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from taskarith.evaluation.leakage import HOLDOUT
from taskarith.evaluation.metrics.intervals import Estimate, ratio
from taskarith.evaluation.numbers import LENS
from taskarith.evaluation.read_records import RecordTable, other_samples
from taskarith.evaluation.score import Number, Scores
from taskarith.report.page import Figure as Drawing
from taskarith.report.page import Layers
from taskarith.report.plot import COLOURS, GREY, MARKERS, band, draw_svg
from taskarith.report.scores import number_text
from taskarith.report.tables import TableRows, fitted, short_names
from taskarith.sweeps.split import is_forgotten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["layer_tables", "layers_of"]

_HOW = (
    "The states of each layer are read by the model's own final norm and output head, as if it had to speak there "
    "(logit lens): the lower the loss, the more of the text can be read. Layer 0: the embeddings; the last: the output."
)
_LIMIT = (
    "A layer from which the text can be read better than by a model that never knew it, by more than unseen text of "
    "its kind, still holds something of it. The reverse does not hold: a lens is one linear reading, and what it does "
    "not find may be there all the same."
)
_UNCONTROLLED = (
    "No unseen text was read beside it (--data holdout=FILE): a model that learned other texts may read all of its "
    "kind better."
)
_ALONE = "No model that never saw the text was read beside these (--reference): what is left of it is not known."
_PAIRED = "95% intervals of the difference on the same samples, each layer by itself: about one in forty by chance"

_Curves = Mapping[str, Sequence[Number]]
"""Losses at each layer by row; rows that were not read are left out."""


def layers_of(tables: Mapping[str, RecordTable], scores: Scores, reference: str | None) -> Layers | None:
    """Return what a report says of the layers, or None if none were read.

    It is about the texts that are to be forgotten, or if no text is named so about all; others are a comparison.

    :param tables: Records by row.
    :param scores: Their numbers.
    :param reference: The row of a model that never saw the texts that are to be forgotten.
    """
    read = [text for text in scores.texts if _curves(scores, text)]
    texts = [text for text in read if is_forgotten(text)] or read
    if not texts:
        return None
    names = short_names(scores.models)
    control = HOLDOUT if HOLDOUT in read and HOLDOUT not in texts else ""
    found = [_ALONE]
    if reference is not None:
        found = [line for text in texts for line in _finding(tables, text, reference, control, names)]
    limits = [_LIMIT] if control or reference is None else [_LIMIT, _UNCONTROLLED]
    return Layers(
        (_HOW, *found, *limits),
        tuple(_drawing(_curves(scores, text), text, reference, names) for text in texts),
        tuple(_drawing(_curves(scores, text), text, reference, names) for text in read if text not in texts),
        tuple(layer_tables(scores, read)),
    )


def layer_tables(scores: Scores, texts: Sequence[str]) -> list[TableRows]:
    """Return a table of each text that was read at every layer, with a row for each of them and a column per model."""
    names, tables = short_names(scores.models), []
    for text in texts:
        if curves := _curves(scores, text):
            rows = [
                (_layer(layer), *(number_text(LENS, dict(enumerate(curve)).get(layer)) for curve in curves.values()))
                for layer in range(max(map(len, curves.values())))
            ]
            heads = ("layer", *(names[model] for model in curves))
            tables += fitted(TableRows(f"{text}: loss at each layer{_count(curves)}", heads, tuple(rows)))
    return tables


def _curves(scores: Scores, text: str) -> _Curves:
    found = {}
    for model in scores.models:
        numbers = scores.by_text[model].get(text, {})
        depth = sum(name.startswith(LENS) for name in numbers)
        if depth and all(f"{LENS}{layer}" in numbers for layer in range(depth)):
            found[model] = [numbers[f"{LENS}{layer}"] for layer in range(depth)]
    return found


def _layer(number: int) -> str:
    return str(number) if number else "0 (embeddings)"


def _count(curves: _Curves) -> str:
    counts = {one.n for curve in curves.values() for one in curve if isinstance(one, Estimate)}
    return f", first {max(counts):,} sample{'s' if max(counts) > 1 else ''}" if counts else ""


def _finding(
    tables: Mapping[str, RecordTable], text: str, reference: str, control: str, names: Mapping[str, str]
) -> list[str]:
    """Say at which layers a text can be read better from each model than from one that never saw it.

    :param control: A text that no model saw: what can be read of it better, too, is no sign of the other one.
    """

    def where(control: str = "") -> str:
        places = {
            names[model]: _places(table, tables[reference], text, control)
            for model, table in tables.items()
            if model != reference
        }
        return ", and ".join(f"from {name} {place}" for name, place in places.items() if place)

    if not where():
        return [f"The layers of {names[reference]}, which never saw the text {text}, were not read beside these."]
    than = f"Better than from {names[reference]}, which never saw it,"
    said = [f"{than} the text {text} can be read {where()} ({_PAIRED})."]
    if control:
        said.append(f"Better by more than the text {control}, which no model saw, it can be read {where(control)}.")
    return said


def _places(table: RecordTable, reference: RecordTable, text: str, control: str) -> str:
    """Return where a text can be read better from a model than from the reference; empty if it was not read."""
    found = _differences(table, reference, text)
    unseen = _differences(table, reference, control) if control else ""
    if isinstance(found, str):
        return found
    if control and isinstance(unseen, str):
        return f"at layers that cannot be compared with those of {control}"
    others = [None] * len(found) if isinstance(unseen, str) else unseen
    ends = [_high(one, other) for one, other in zip(found, others, strict=True)]
    better = [layer for layer, high in enumerate(ends) if high < 0]
    return f"at layers {_runs(better)} of {len(found) - 1}" if better else "at no layer"


def _differences(table: RecordTable, reference: RecordTable, text: str) -> list[Estimate] | str:
    """Return the mean loss of a text at each layer less that of the reference, or why there are none."""
    here, there = table.of("lens", text), reference.of("lens", text)
    records = [*here.values(), *there.values()]
    if not here or any("unreadable" in record for record in records):
        return ""
    if other_samples(table, reference, "lens", text) or len({len(record["nll"]) for record in records}) > 1:
        return "at layers that cannot be compared, since they or the samples are others"
    if len(here) < 2:
        return "at layers of which one sample tells nothing"
    counts = [record["tokens"] for record in here.values()]
    return [
        ratio([here[name]["nll"][layer] - there[name]["nll"][layer] for name in here], counts)
        for layer in range(len(records[0]["nll"]))
    ]


def _high(one: Estimate, other: Estimate | None = None) -> float:
    """Return the upper end of the 95% interval of a number, or of its difference to one of other samples.

    The interval of the difference is made of the two (MOVER: Zou and Donner, Statistics in Medicine 27, 2008).
    """
    if one.high is None or (other is not None and other.low is None):
        return math.inf
    if other is None or other.low is None:
        return one.high
    return one.value - other.value + math.hypot(one.high - one.value, other.value - other.low)


def _runs(numbers: Sequence[int]) -> str:
    """Write ascending numbers with runs shortened, as in ``0, 3 to 9``."""
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True))


def _drawing(curves: _Curves, text: str, reference: str | None, names: Mapping[str, str]) -> Drawing:
    title = f"Loss of {text} read at each layer{_count(curves)}, with 95% bands (nats per token)"
    return Drawing(title, draw_svg(partial(_draw, curves, text, reference, names)))


def _draw(curves: _Curves, text: str, reference: str | None, names: Mapping[str, str]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.8, 3.6), layout="constrained")
    axes = figure.subplots()
    for index, (model, curve) in enumerate(curves.items()):
        _draw_curve(axes, curve, index, is_reference=model == reference)
    axes.set_title(_plain(f"Loss of {text} read at each layer"), loc="left", fontsize=11, parse_math=False)
    axes.set_xlabel("layer (0: the embeddings)")
    axes.set_ylabel("nats per token")
    losses = [number.value for curve in curves.values() for number in curve]
    if 0 < 10 * min(losses) < max(losses):  # at the first layers it may be a hundred times that at the last ones
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend = axes.legend(axes.lines, [str(index) for index in range(len(curves))], frameon=False, fontsize=9)
    for label, model in zip(legend.get_texts(), curves, strict=True):  # matplotlib drops labels that begin with _
        label.set_parse_math(False)
        label.set_text(_plain(names[model]))
    return figure


def _draw_curve(axes: Axes, curve: Sequence[Number], index: int, *, is_reference: bool) -> None:
    colour = GREY if is_reference else COLOURS[index % len(COLOURS)]
    marker = "" if is_reference else MARKERS[index % len(MARKERS)]
    layers, values = range(len(curve)), [number.value for number in curve]
    axes.plot(layers, values, color=colour, marker=marker, markersize=4, linestyle="--" if is_reference else "-")
    lows, highs = zip(*map(band, curve), strict=True)
    axes.fill_between(layers, lows, highs, color=colour, alpha=0.15, linewidth=0)


def _plain(text: str) -> str:
    """Return a text without what a drawing cannot hold."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
