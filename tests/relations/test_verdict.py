"""The verdict: what intervals and losses together allow to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.relations.verdict import Evidence, judge


def change(value, half=0.05):
    return Estimate(value, value - half, value + half, 9)


LOWER = Evidence((change(-1), change(-1)), (change(-0.5), change(-0.5)), (True, True))
HIGHER = Evidence((change(-1), change(-1)), (change(0.5), change(0.5)), (True, True))
NEITHER = Evidence((change(-1), change(-1)), (change(0), change(0)), (True, True))


@pytest.mark.parametrize(
    ("value", "low", "high", "evidence", "regime", "reason"),
    [
        (0.5, 0.3, 0.6, LOWER, "aligned", ""),
        (0.5, 0.3, 0.6, NEITHER, "aligned", ""),
        (
            0.5,
            0.3,
            0.6,
            HIGHER,
            "undecided",
            "the vector of a raises the loss of b despite the positive correlation (",
        ),
        (0.5, 0.1, 0.9, LOWER, "undecided", "its interval contains 0.2"),
        (-0.5, -0.6, -0.3, HIGHER, "contradictory", ""),
        (
            -0.5,
            -0.6,
            -0.3,
            LOWER,
            "undecided",
            "the vector of a lowers the loss of b despite the negative correlation",
        ),
        (0.05, -0.1, 0.2, NEITHER, "irrelevant", ""),
        (0.1, 0.02, 0.18, LOWER, "irrelevant", ""),  # apart from 0, and within the bounds of equivalence
        (0.15, 0.05, 0.25, NEITHER, "undecided", "its interval contains 0.2"),
        (0.3, None, None, LOWER, "undecided", "the correlation has no interval"),
        (
            0.5,
            0.3,
            0.6,
            replace(LOWER, learned=(True, False)),
            "undecided",
            "the vector of b was not trained on its test set",
        ),
        (
            0.0,
            -0.1,
            0.1,
            replace(LOWER, learned=(None, True)),
            "undecided",
            "the vector of a is not recorded",
        ),
        (
            0.5,
            0.3,
            0.6,
            replace(LOWER, own=(change(-1), change(0))),
            "undecided",
            "the vector of b is not shown",
        ),
    ],
)
def test_the_verdict_needs_the_interval_and_the_losses(value, low, high, evidence, regime, reason):
    verdict = judge("a", "b", Estimate(value, low, high, 9), 0.0, evidence)
    assert (verdict.regime, verdict.reason.startswith(reason)) == (regime, True), verdict.reason
    assert bool(verdict.reason) == (regime == "undecided")
    assert judge("a", "b", None, 0.0, evidence).regime == "undecided"


def test_what_the_theorems_say():
    served, not_served = (replace(LOWER, together=(change(-0.7), change(by))) for by in (-0.9, -0.02))
    aligned = judge("a", "b", Estimate(0.6, 0.4, 0.7, 9), 0.05, served)
    assert "b needs a coefficient of at least 0.45 (0.65 at the lower end" in aligned.addition.text
    assert "at 0.45 both losses fall: a -0.70 nats, -0.75 to -0.65; b -0.90 nats" in aligned.addition.text
    assert "also harms the other" in aligned.negation.text
    unserved = judge("a", "b", Estimate(0.6, 0.4, 0.7, 9), 0.05, not_served)
    assert "at 0.45 the losses are not both shown to fall" in unserved.addition.text
    against = judge("a", "b", Estimate(-0.5, -0.6, -0.4, 9), 0.0, HIGHER)
    assert "no coefficient serves both" in against.addition.text
    assert "down to about -4.00" in against.negation.text
    apart = judge("a", "b", Estimate(0.0, -0.1, 0.1, 9), 0.0, NEITHER)
    assert "coefficient of at least 1.00" in apart.addition.text
    assert "any negative coefficient" in apart.negation.text
    assert any("hinge" in one for one in apart.negation.assumptions)
