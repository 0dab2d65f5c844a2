"""Rules on numbers: what they choose, the objective of a search, the cliff, and the Pareto front."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.sweeps.rule import Point, Rule, TextScore, find_cliff, pareto_front


def point(alpha, forget, keep, rouge=None):
    return Point(alpha, {"forget": TextScore(forget, rouge)}, {"a": TextScore(keep - 0.1), "b": TextScore(keep + 0.1)})


CURVE = [point(0, 0.2, 0.3), point(0.5, 1.5, 0.6), point(1, 4.1, 0.8), point(1.5, 6.0, 2.0), point(-0.5, 1.6, 0.5)]


@pytest.mark.parametrize(
    ("aim", "chosen"),
    [
        (Rule({"forget": TextScore(4.0)}), 2),
        (Rule({"forget": TextScore(1.5)}), 4),  # of two equally small alphas the one that costs less
        (Rule({"forget": TextScore(0.2)}), 0),
        (Rule({"forget": TextScore(6.1)}), None),
        (Rule(budget=0.51), 2),
        (Rule(budget=0.25), 4),
        (Rule(budget=-0.1), None),
        (Rule({"forget": TextScore(6.1)}, budget=2.0), 3),  # beside a budget the level only is there to compare with
        (Rule(), None),
    ],
)
def test_a_rule_chooses(aim, chosen):
    assert aim.choose(CURVE, CURVE[0]) == chosen


def test_every_text_and_its_rouge_must_be_at_the_level():
    aim = Rule({"forget": TextScore(2.0, 0.10), "forget_too": TextScore(1.0, None)})

    def of(first, second):
        return Point(1, {"forget": first, "forget_too": second}, {"a": TextScore(1.0)})

    unedited = of(TextScore(0.1, 0.9), TextScore(0.1, 0.9))
    assert aim.is_met(of(TextScore(2.0, 0.13), TextScore(1.0, 0.9)), unedited)
    assert not aim.is_met(of(TextScore(2.0, 0.131), TextScore(1.0, 0.9)), unedited)
    assert not aim.is_met(of(TextScore(2.0, 0.10), TextScore(0.9, 0.0)), unedited)
    assert aim.missed(of(TextScore(2.0, 0.131), TextScore(0.9, 0.9)), unedited) == [
        "the ROUGE-L of forget is 0.131, and at most 0.130 is wanted",
        "the loss of forget_too is 0.900, and at least 1.000 is wanted",
    ]
    assert not aim.is_met(of(TextScore(math.nan), TextScore(1.0)), unedited)


def test_a_rise_beyond_the_budget_is_told():
    point, unedited = (Point(1, {}, {"a": TextScore(loss)}) for loss in (1.25, 1.0))
    assert Rule(budget=0.1).missed(point, unedited) == ["the mean retain loss rises by 0.250, and 0.1 is allowed"]
    assert Rule(budget=0.3).missed(point, unedited) == []
    assert not Rule().is_met(unedited, unedited)


def test_the_objective_of_a_search_is_the_rule_with_a_penalty():
    unedited = point(0, 0.2, 0.3)
    assert Rule({"forget": TextScore(4.0)}).objective(point(1, 4.5, 0.8), unedited) == pytest.approx(0.5)
    assert Rule({"forget": TextScore(4.0)}).objective(point(1, 3.9, 0.8), unedited) == pytest.approx(0.5 + 10 * 0.1)
    assert Rule(budget=0.5).objective(point(1, 3.9, 0.8), unedited) == pytest.approx(-3.9)
    assert Rule(budget=0.4).objective(point(1, 3.9, 0.8), unedited) == pytest.approx(-3.9 + 10 * 0.1)
    assert Rule(budget=1.0).objective(replace(point(1, 3.9, 0.8), kl=0.2), unedited, kl=2) == pytest.approx(-3.5)


def steps(losses, width=None):
    values = [after - before for before, after in itertools.pairwise(losses)]
    return [Estimate(v, None if width is None else v - width, None if width is None else v + width, 4) for v in values]


TENTHS = [round(0.1 * n, 1) for n in range(11)]


@pytest.mark.parametrize(
    ("alphas", "losses", "width", "cliff"),
    [
        (TENTHS, [1 + a for a in TENTHS], None, None),
        (TENTHS, [1 + 3 * a**2 for a in TENTHS], None, None),  # Taylor's second term is not a cliff
        (TENTHS, [1 + 0.1 * a + (a > 0.55) for a in TENTHS], None, 6),
        (TENTHS, [1 + 0.1 * a + (a > 0.55) for a in TENTHS], 0.99, None),  # or so the samples say
        (TENTHS, [1 + 0.01 * a + 0.05 * (a > 0.55) for a in TENTHS], None, None),  # less than 0.1 nats
        ([1 - 1, 1, 2, 4, 8, 16], [1, 1.1, 1.2, 1.4, 1.8, 2.6], None, None),  # MUSE's grid: speeds, not steps
        ([0, 1, 2, 4, 8, 16], [1, 1.1, 1.2, 1.4, 3.8, 9], None, 4),
        ([0, 1, 2, 3], [1.0, 0.9, 0.8, 1.2], None, 3),
        ([0, 1], [1, 9], None, None),  # there is no speed to compare with
        ([0], [1], None, None),
    ],
)
def test_a_cliff_is_a_loss_that_rises_faster_than_it_did(alphas, losses, width, cliff):
    assert find_cliff(alphas, losses, steps(losses, width)) == cliff


def test_the_front_is_what_no_other_edit_beats():
    assert pareto_front([(1, 1), (2, 2), (3, 1.5), (3, 1.6), (0.5, 1), (4, 9)]) == [0, 2, 5]
    assert pareto_front([(1, 1), (1, 1)]) == [0]
    assert pareto_front([]) == []
