"""What an attack brings back of what the edit took."""

from __future__ import annotations

import math

import pytest
from attacking import said

from taskarith.attacks.recovery import numbers, outcome
from taskarith.errors import DataError
from taskarith.evaluation.records import loss_record


def losses(model, nll, other=0.0):
    return [
        loss_record(model, "forget", "a", nll, 10, 5),
        loss_record(model, "forget", "given", other, 10, 10),
    ]


def test_shares_by_hand():
    records = losses("before", 10.0) + losses("edited", 40.0) + losses("retain", 42.0)
    records += losses("edited int4", 25.0) + losses("retain int4", 37.0)
    whole = outcome(records, attack="quantise", name="int4", state="int4")
    assert (whole.view, whole.cells["loss"].value, whole.cells["accuracy"].value) == ("all", 1.25, 0.75)
    student = 12.706205  # of two samples, 12.7 standard errors on either side, and no loss is below 0
    assert whole.cells["loss"].interval == (0.0, pytest.approx(1.25 * (1 + student)))
    assert whole.cells["loss"].retain_interval == (0.0, pytest.approx(1.85 * (1 + student)))
    assert whole.cells["loss"].recovered is None
    assert "before - edited is -1.500" in whole.cells["loss"].lacking  # of two samples, one of which is known by all
    one = outcome(records, attack="quantise", name="int4", state="int4", without={"given"}).cells["loss"]
    assert (one.value, one.retain, one.n) == (2.5, 3.7, 1)
    assert one.lacking == "a single sample does not show whether the edit removed anything"
    assert (one.interval, one.beyond) == (None, None)


def test_prompts_that_one_state_lacks_are_paired_with_none():
    """A rule leaves a prompt out, and prompts of a file have other names: the edited model's are then apart."""
    words = {"before": "one two three four", "edited": "nothing", "edited half": "one two"}

    def made(model, text, ids):
        flawed = {"before": {"p0": "one two three"}, "edited": {"p1": "four"}}.get(model, {})
        return [
            said(model, text, id_, flawed.get(id_, words[model if text == "forget" else "edited half"])) for id_ in ids
        ]

    plain = [made(model, "forget", [f"p{n}" for n in range(12)]) for model in ("before", "edited")]
    for ids in (["p0", "p2", "p3"], ["other 1", "other 2", "other 3"]):
        records = [*plain[0], *plain[1], *made("edited", "rephrase half", ids)]
        cell = outcome(records, attack="rephrase", name="half", texts=["rephrase half"]).cells["rouge_l_recall"]
        edited, before = 0.25 / 12, (11 + 0.75) / 12
        assert cell.recovered == pytest.approx((0.5 - edited) / (before - edited))
        assert cell.n == 3
        assert cell.recovered_interval[0] < cell.recovered < cell.recovered_interval[1]


def test_a_model_that_knew_less_before_the_edit_gives_no_shares():
    records = losses("before", 50.0) + losses("edited", 40.0) + losses("edited int8", 39.0)
    cell = outcome(records, attack="quantise", name="int8", state="int8").cells["loss"]
    assert (cell.retain, cell.recovered, cell.beyond) == (None, None, None)
    assert cell.lacking == "the model knew the text no better before the edit than after it"


def test_of_several_tries_the_best_counts():
    records = [
        said("edited", "rephrase half", "a", "one two"),
        said("edited", "rephrase half", "b", "nothing"),
        said("edited", "rephrase lower", "a", "one two three four"),
        said("edited", "prefix 8 sampled", "a draw 1", "one", "a"),
        said("edited", "prefix 8 sampled", "a draw 2", "one two", "a"),
    ]
    half = outcome(records, attack="rephrase", name="half", texts=["rephrase half"])
    assert half.cells["rouge_l_recall"].value == 0.25
    assert half.prompts == 2
    worst = outcome(records, attack="rephrase", name="worst", texts=["rephrase half", "rephrase lower"])
    assert worst.cells["rouge_l_recall"].value == 0.5
    assert worst.cells["verbatim"].value == 0.5
    sampled = outcome(records, attack="prefix", name="8", texts=["prefix 8 sampled"])
    assert (sampled.cells["rouge_l_recall"].value, sampled.prompts) == (0.5, 1)


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(DataError, match="a loss of edited is not finite"):
        numbers(losses("edited", math.nan))
