"""Sentences on what models know: of forgotten and of known texts, and where nothing can be said."""

from __future__ import annotations

import pytest

from taskarith.evaluation.read_records import arrange
from taskarith.evaluation.records import loss_record
from taskarith.evaluation.score import make_scores
from taskarith.report.knowledge import knowledge

LOSSES = {"before": (1, 2, 1, 2, 1), "edited": (38, 41, 37, 42, 40), "half": (9, 12, 8, 11, 9), "never": (40, 41, 40)}


def said(models, reference="never", text="forget"):
    records = [
        loss_record(model, text, f"b{number}", float(nll), 10, 5)
        for model in models
        for number, nll in enumerate((LOSSES[model] * 7)[:20])
    ]
    tables = {table.model: table for table in arrange(records, "here")}
    return knowledge(tables, records, make_scores(tables, {}), reference)


def test_what_is_forgotten_and_what_is_not_is_said_of_each_model():
    before, edited, half = said(["before", "edited", "half", "never"])
    assert before.startswith("before knows the text forget; the others are compared with it, and with never")
    assert edited.startswith("edited has forgotten most of the text forget: what is left is ")
    assert half.startswith("It is not shown that half has forgotten the text forget: what is left is ")


def test_a_text_that_nobody_knows_is_said_to_be_one():
    (sentence,) = said(["edited", "never"])
    assert "do not show that edited knows the text forget better than never" in sentence


@pytest.mark.parametrize(
    ("reference", "text", "words"),
    [(None, "forget", "does not say whether"), ("never", "book", "No text is named forget")],
)
def test_without_a_reference_or_a_text_to_forget_nothing_is_said(reference, text, words):
    (sentence,) = said(["before", "never"], reference, text)
    assert words in sentence
