"""Scores as one table with one row a model: the numbers that are looked at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskarith.evaluation.metrics.intervals import Spread
from taskarith.evaluation.score import Number, Scores
from taskarith.report.scores import metric_title, number_text
from taskarith.report.tables import TableRows, fitted, short_names, width_of

__all__ = ["summary_tables"]

_HEADLINES = (
    "forget_quality",
    "model_utility",
    "privleak",
    "verbmem",
    "knowmem_forget",
    "knowmem_retain",
    "normalised_accuracy",
)
_FIRST = (("loss", "rouge_l_f1", "accuracy"), ("probability", "rouge_l_recall_stemmed"), ("verbmem",), ("knowmem",))
"""What is looked at first of a text: the first of these groups of which it has a number, the most important first."""

_Column = tuple[str, str]
"""Text and metric; over several texts the text is empty."""


def summary_tables(scores: Scores, width: int = 80) -> list[TableRows]:
    """Return a table with a row for each model; where it is too wide, of fewer numbers, then without intervals.

    What is too wide even so is cut into pieces.

    :param width: What is not too wide, in characters.
    """
    seeds = _seeds(scores)
    plans = [(3, False), (2, False), *([(1, False)] if seeds else [(3, True), (2, True), (1, True)])]
    tables = [_table(scores, _columns(scores, most), plain, seeds) for most, plain in plans]
    chosen = next((table for table in tables if width_of(table) <= width), tables[-1])
    return fitted(chosen, width)


def _columns(scores: Scores, most: int) -> list[_Column]:
    overall = {name for model in scores.models for name in scores.overall[model]}
    found = [("", name) for name in _HEADLINES if name in overall]
    for text in scores.texts:
        names = dict.fromkeys(name for model in scores.models for name in scores.by_text[model].get(text, {}))
        first = next((pair for pair in _FIRST if pair[0] in names), tuple(names)[:1])
        found += [(text, name) for name in first[:most] if name in names]
    return found


def _seeds(scores: Scores) -> int | None:
    """Return over how many seeds the numbers are means, or None."""
    numbers = (one for model in scores.models for text in scores.by_text[model].values() for one in text.values())
    return next((one.seeds for one in numbers if isinstance(one, Spread)), None)


def _table(scores: Scores, columns: Sequence[_Column], plain: bool, seeds: int | None) -> TableRows:
    names, texts = short_names(scores.models), short_names(scores.texts)
    rows = [
        (
            names[model],
            *(number_text(metric, _found(scores, model, text, metric), plain=plain) for text, metric in columns),
        )
        for model in scores.models
    ]
    heads = [
        f"{' '.join(texts[text].split())}\n{metric_title(metric)}" if text else metric_title(metric)
        for text, metric in columns
    ]
    if seeds:
        title = f"mean ± standard deviation (n - 1) over {seeds} seeds; every number: --full"
    else:
        title = "95% intervals and every number: --full" if plain else "with 95% intervals; every number: --full"
    return TableRows(title, ("model", *heads), tuple(rows))


def _found(scores: Scores, model: str, text: str, metric: str) -> Number | None:
    numbers: Mapping[str, Number] = scores.by_text[model].get(text, {}) if text else scores.overall[model]
    return numbers.get(metric)
