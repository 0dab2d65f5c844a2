"""Evaluations as rows of text: what a table shows, not how it is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from taskarith.evaluation.records import Evaluation, TextScore

__all__ = ["METRICS", "Metric", "TableRows", "metric_table", "text_tables"]


@dataclass(frozen=True)
class Metric:
    """A number of a TextScore as people read it.

    :param title: Heading of its column.
    :param write: Writes a value.
    :param write_change: Writes a difference to the first model, with its sign.
    """

    title: str
    write: Callable[[float], str]
    write_change: Callable[[float], str]


@dataclass(frozen=True)
class TableRows:
    """A table: its title, headings and cells, as ``Console.table`` takes them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _digits(places: int) -> tuple[Callable[[float], str], Callable[[float], str]]:
    return (lambda value: f"{value:.{places}f}", lambda value: f"{value:+.{places}f}")


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 1e5 else f"{value:.1e}"


METRICS = {
    "loss": Metric("loss", *_digits(3)),
    "perplexity": Metric(
        "perplexity", _perplexity, lambda value: f"{'+' if value >= 0 else '-'}{_perplexity(abs(value))}"
    ),
    "accuracy": Metric("top-1 accuracy", *_digits(3)),
    "rouge_l_f1": Metric("ROUGE-L F1", *_digits(3)),
    "rouge_l_recall": Metric("ROUGE-L recall", *_digits(3)),
    "verbatim": Metric("verbatim", *_digits(3)),
}
"""The numbers of a TextScore that are compared, by attribute, in the order of the columns."""

_NONE = "-"


def text_tables(evaluation: Evaluation) -> list[TableRows]:
    """Return one table per text: models down, metrics across, each with its change against the first model."""
    return [_text_table(evaluation, text) for text in evaluation.texts]


def metric_table(evaluation: Evaluation, metric: str) -> TableRows:
    """Return one metric of all models on all texts: models down, texts across, with the change.

    :param metric: A key of ``METRICS``.
    """
    first = evaluation.scores[evaluation.models[0]]
    rows = []
    for model in evaluation.models:
        scores = evaluation.scores[model]
        cells = (_cell(metric, scores[text], first[text], model == evaluation.models[0]) for text in evaluation.texts)
        rows.append((model, *cells))
    return TableRows(METRICS[metric].title, ("model", *evaluation.texts), tuple(rows))


def _text_table(evaluation: Evaluation, text: str) -> TableRows:
    first = evaluation.models[0]
    reference = evaluation.scores[first][text]
    rows = []
    for model in evaluation.models:
        score = evaluation.scores[model][text]
        rows.append((model, *(_cell(metric, score, reference, model == first) for metric in METRICS)))
    title = f"{text}: {reference.tokens:,} tokens, {reference.prompts} prompts"
    if len(evaluation.models) > 1:
        title += " (change against the first model)"
    return TableRows(title, ("model", *(metric.title for metric in METRICS.values())), tuple(rows))


def _cell(name: str, score: TextScore, reference: TextScore, is_reference: bool) -> str:
    metric, value, base = METRICS[name], getattr(score, name), getattr(reference, name)
    if value is None:
        return _NONE
    if is_reference or base is None or not math.isfinite(value - base):
        return metric.write(value)
    return f"{metric.write(value)} ({metric.write_change(value - base)})"
