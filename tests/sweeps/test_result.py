"""From the records of all rows to the row that a rule chooses."""

from __future__ import annotations

import pytest
from sweeping import LOSSES

from taskarith.edit.edit import Edit
from taskarith.evaluation.read_records import arrange
from taskarith.evaluation.records import loss_record
from taskarith.evaluation.run import Evaluation
from taskarith.evaluation.score import make_scores
from taskarith.sweeps.result import conclude
from taskarith.sweeps.rule import Rule
from taskarith.sweeps.sweep import sweep


@pytest.mark.parametrize(
    ("rises", "chosen"), [([20, 22, 19, 23], 1), ([0.3, 0.2, -0.2, -0.1], None), ([0, 0, 0, 0], None)]
)
def test_a_budget_recommends_no_edit_that_forgets_nothing(rises, chosen):
    """Of a model that never knew the text some coefficient always raises the loss most, by nothing that can be told."""

    def row(name, more):
        found = [loss_record(name, "forget", f"f{n}", 40.0 + rise, 10, 1) for n, rise in enumerate(more)]
        return found + [loss_record(name, "keep", f"k{n}", 20.0, 10, 1) for n in range(4)]

    records = row("m alpha=0", [0] * 8) + row("m alpha=1", rises * 2)
    edits = {f"m alpha={alpha}": Edit(alpha=alpha) for alpha in (0, 1)}
    scores = make_scores({sheet.model: sheet for sheet in arrange(records, "here")}, {})
    found = conclude(Evaluation(scores, records), edits, Rule(budget=1.0), None)
    assert found.chosen == chosen
    assert (found.recipe is None) == (chosen is None)
    if chosen is None:
        assert found.reason.startswith(
            "nothing is recommended: no edit within the budget of 1 nats forgets significantly"
        )


def test_the_choice_is_made_on_one_half_and_told_of_the_other(lab):
    found = sweep(
        lab["tuned"], lab["data"], negate=[lab["forget"]], alphas=[0.5, 1, 1.5], reference=lab["base"], **LOSSES
    )
    row = found.rows[found.chosen]
    for half, loss in (
        (found.halves.validation, row.choosing.forget["forget"].loss),
        (found.halves.heldout, found.heldout.by_text[row.name]["forget"]["loss"].value),
    ):
        own = [r for r in found.records if r["model"] == row.name and ("loss", r["text"], r["sample"]) in half]
        own = [r for r in own if r["kind"] == "loss" and r["text"] == "forget"]
        assert loss == pytest.approx(sum(r["nll"] for r in own) / sum(r["tokens"] for r in own))
    assert found.heldout.models == (found.rows[0].name, row.name, lab["base"])
    earlier = [one for one in found.rows if one.alpha < row.alpha]
    assert not any(found.aim.is_met(one.choosing, found.rows[0].choosing) for one in earlier)
    assert found.aim.is_met(row.choosing, found.rows[0].choosing)
