"""Samples dealt into halves, and the means of records with their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sweeping import RUNS, SLACK, loss_rows

from taskarith.evaluation.records import continuation_record, loss_record
from taskarith.sweeps.rule import TextScore
from taskarith.sweeps.split import deal, mean_loss, point_of


def test_halves_are_disjoint_and_complete_and_keep_a_row_together():
    samples = [("loss", "forget", f"d#{n}") for n in range(5)] + [
        ("continuation", "forget", f"d@{n}") for n in range(4)
    ]
    samples += [("loss", "rows", str(n)) for n in range(10)] + [
        ("continuation", "rows", str(n)) for n in range(0, 10, 2)
    ]
    found = deal(samples)
    assert found.validation | found.heldout == set(samples)
    assert not found.validation & found.heldout
    assert found.single == ()
    assert {one[2] for one in found.validation if one[:2] == ("loss", "forget")} == {"d#0", "d#2", "d#4"}
    assert {one[2] for one in found.heldout if one[:2] == ("continuation", "forget")} == {"d@1", "d@3"}
    for half in (found.validation, found.heldout):
        assert sum(one[:2] == ("loss", "rows") for one in half) == 5
        rows = {one[2] for one in half if one[:2] == ("loss", "rows")}
        assert {one[2] for one in half if one[:2] == ("continuation", "rows")} <= rows


def test_a_single_sample_is_in_both_halves_and_that_is_said():
    found = deal([("loss", "forget", "d#1"), ("loss", "keep", "e#1"), ("loss", "keep", "e#2")])
    assert found.single == ("forget",)
    assert ("loss", "forget", "d#1") in found.validation & found.heldout
    assert len(found.validation & found.heldout) == 1


def test_means_of_records():
    def row(name, forget, keep):
        found = [loss_record(name, "forget", f"f{n}", nll, 10, 1) for n, nll in enumerate(forget)]
        found += [loss_record(name, "keep", f"k{n}", nll, 5, 1) for n, nll in enumerate(keep)]
        found += [loss_record(name, "other", "o", 8.0, 4, 1)]
        return [*found, continuation_record(name, "forget", "p", "x", "a b", "a b")]

    before, after = row("before", [10, 20], [5, 10, 15]), row("after", [30, 40], [10, 15, 20])
    found = point_of(0.5, after)
    assert found.forget == {"forget": TextScore(3.5, 1.0)}
    assert found.keep == {"keep": TextScore(3.0), "other": TextScore(2.0)}
    assert (found.forget_loss, found.keep_loss) == (3.5, 2.5)
    assert mean_loss(after, forgotten=False).value == 2.5
    rise = mean_loss(after, before, forgotten=False)
    assert (rise.value, rise.low, rise.high) == (0.5, None, None)  # other has one sample
    rise = mean_loss(after, before, forgotten=True)  # every sample rose by 20 nats on 10 tokens
    assert (rise.value, rise.low, rise.high) == (2.0, None, None)


@pytest.mark.parametrize("n", [4, 16, 40])
def test_the_mean_loss_of_two_texts_is_covered(n):
    """Beside another row as well, sample by sample."""
    rng, alone, rises = np.random.default_rng(7), [], []
    for _ in range(RUNS):
        before, after = [], []
        for text, loss in (("retain", 2.0), ("other", 3.0)):
            tokens, hard = rng.integers(20, 250, n), rng.normal(0, 0.4, n)
            before += loss_rows(tokens * (loss + hard), tokens, text)
            after += loss_rows(tokens * (loss + 0.1 + 1.1 * hard + rng.normal(0, 0.1, n)), tokens, text)
        mean, rise = mean_loss(after, forgotten=False), mean_loss(after, before, forgotten=False)
        alone.append(mean.low <= 2.6 <= mean.high)
        rises.append(rise.low <= 0.1 <= rise.high)
    assert np.mean(alone) >= 0.92 - SLACK
    assert np.mean(rises) >= 0.92 - SLACK
