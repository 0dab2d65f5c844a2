"""What models know of the texts that are to be forgotten, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from taskarith.evaluation.read_records import RecordTable, other_samples
from taskarith.evaluation.records import Record
from taskarith.evaluation.score import Scores
from taskarith.report.tables import short_names
from taskarith.sweeps.remaining import Remaining, measure_remaining
from taskarith.sweeps.split import is_forgotten

__all__ = ["knowledge"]


def knowledge(
    tables: Mapping[str, RecordTable], records: Sequence[Record], scores: Scores, reference: str | None
) -> list[str]:
    """Say of every model what it knows of the texts that are to be forgotten.

    :param tables: Records by model, those of the reference included.
    :param records: The same records.
    :param scores: Of the models to be named.
    :param reference: The model that never saw the texts; None if none was measured.
    """
    texts = [text for text in scores.texts if is_forgotten(text)]
    if not texts:
        return ["No text is named forget, so that nothing is said about forgetting."]
    if reference is None:
        lacking = "No model that never saw the forgotten text was measured beside these (--reference)"
        return [f"{lacking}, so that this report does not say whether it is forgotten."]
    if strangers := _otherwise_asked(tables, texts):
        return [f"The models were not asked the same, so that they cannot be compared: {strangers}."]
    rows = {model: [one for one in records if one["model"] == model] for model in scores.models}
    losses = {
        model: scores.by_text[model][texts[0]]["loss"].value
        for model in scores.models
        if model != reference and "loss" in scores.by_text[model].get(texts[0], {})
    }
    if not losses:
        return ["The loss of the forgotten text was not measured."]
    before = min(losses, key=losses.__getitem__)
    names = short_names(tuple(tables))
    sentences = dict.fromkeys(
        _sentence(names[model], text, left, names[before], names[reference], model == before)
        for model in losses
        for text, left in measure_remaining(rows[model], rows[before], rows[reference]).items()
    )
    return list(sentences)  # what is said of a text alone is said once


def _otherwise_asked(tables: Mapping[str, RecordTable], texts: Sequence[str]) -> str | None:
    """Return how the questions of forgotten texts differ between models, as other tokenizers make them, or None."""
    first, *others = tables.values()
    pairs = [(other, kind, text) for other in others for kind in ("loss", "continuation") for text in texts]
    found = ((other, other_samples(first, other, kind, text)) for other, kind, text in pairs)
    return next(
        (f"{Path(first.model).name} and {Path(one.model).name} have {what}" for one, what in found if what), None
    )


def _sentence(model: str, text: str, left: Remaining, before: str, reference: str, is_before: bool) -> str:
    if left.loss is None:
        return (
            f"These samples do not show that {before} knows the text {text} better than {reference}, which never saw "
            "it: either there is nothing to forget, or they are too few."
        )
    if is_before:
        return (
            f"{model} knows the text {text}; the others are compared with it, and with {reference}, which never saw it."
        )
    share = f"{left} (0%: {reference}, 100%: {before}; 95% intervals in brackets)"
    if left.is_forgotten:
        return f"{model} has forgotten most of the text {text}: what is left is {share}."
    return f"It is not shown that {model} has forgotten the text {text}: what is left is {share}."
