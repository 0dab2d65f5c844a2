"""Why an edit was chosen, or none: in words that say what to do next."""

from __future__ import annotations

import pytest
from sweeping import KNEW, NEVER, rows_of

from taskarith.edit.edit import Edit
from taskarith.evaluation.read_records import arrange
from taskarith.evaluation.records import loss_record
from taskarith.evaluation.run import Evaluation
from taskarith.evaluation.score import make_scores
from taskarith.sweeps.result import conclude
from taskarith.sweeps.rule import Rule


@pytest.mark.parametrize(
    ("losses", "chosen", "words"),
    [
        ([4.0, 4.1, 4.2, 3.9], 1, "the smallest alpha that reaches the level of n (left, 95% intervals: of forget -"),
        ([3.0, 3.1, 3.2, 2.9], None, "no edit reaches the level of n; the closest is alpha 1 (left, 95% intervals"),
        ([3.0, 3.1, 3.2, 2.9], None, "1 is the largest alpha tried: try larger ones, as in --alpha 1:4:0.5"),
        ([14.0, 0.5, 14.0, 4.9], None, "alpha 1 reaches the level of n on average, but the samples do not show that"),
    ],
)
def test_a_level_that_is_not_shown_to_be_reached_is_not_recommended(losses, chosen, words):
    names = ("m alpha=0", "m alpha=1", "n")
    records = [
        one for name, of in zip(names, (KNEW[0], losses, NEVER[0]), strict=True) for one in rows_of(name, of, [])
    ]
    edits = {f"m alpha={alpha}": Edit(alpha=alpha) for alpha in (0, 1)}
    scores = make_scores({sheet.model: sheet for sheet in arrange(records, "here")}, {})
    found = conclude(Evaluation(scores, records), edits, Rule(), "n")
    assert found.chosen == chosen
    assert words in found.reason
    assert (found.recipe is None) == (chosen is None)


@pytest.mark.parametrize(("rise", "words"), [(0.0, "--alpha 1:4:0.5"), (0.4, "rises by at most 0.5 nats")])
def test_a_budget_that_allows_more_than_was_tried_says_so(rise, words):
    def row(name, forget, keep):
        found = [loss_record(name, "forget", f"f{n}", 10 * forget + n, 10, 1) for n in range(8)]
        return found + [loss_record(name, "keep", f"k{n}", 10 * keep, 10, 1) for n in range(4)]

    alphas = {0: (1, 2), 0.5: (2, 2 + rise / 2), 1: (3, 2 + 3 * rise)}
    records = [one for alpha, losses in alphas.items() for one in row(f"m alpha={alpha}", *losses)]
    scores = make_scores({sheet.model: sheet for sheet in arrange(records, "here")}, {})
    edits = {f"m alpha={alpha}": Edit(alpha=alpha) for alpha in alphas}
    found = conclude(Evaluation(scores, records), edits, Rule(budget=0.5), None)
    assert found.reason.endswith(words)
