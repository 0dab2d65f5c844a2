"""One row of a sweep: whether its samples show that the texts are forgotten, and what is written of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from taskarith.edit.edit import Edit
from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.spec import OperandRef
from taskarith.sweeps.remaining import Remaining
from taskarith.sweeps.row import SweepRow
from taskarith.sweeps.rule import Point

GONE, LEFT, UNKNOWN = (
    Remaining(estimate, None) for estimate in (Estimate(0.1, 0.0, 0.5, 8), Estimate(0.3, 0.0, 0.51, 8), None)
)


def row(remaining, alpha=1.0):
    operands = (OperandRef("/v", -1.0), OperandRef("/kept", 0.0, role="protect"))
    number = Estimate(2.0, None, None, 1)
    return SweepRow("m", Edit(operands, alpha=alpha), Point(alpha, {}, {}), number, number, number, remaining)


@pytest.mark.parametrize(
    ("remaining", "is_shown"),
    [
        ({"forget": GONE}, True),
        ({"forget": GONE, "forget_too": LEFT}, False),
        ({"forget": UNKNOWN}, False),
        ({}, True),  # there is no level to compare with
    ],
)
def test_every_text_has_to_be_shown_to_be_forgotten(remaining, is_shown):
    assert row(remaining).is_shown is is_shown
    assert row(remaining, alpha=0.0).is_shown  # the unedited model: nobody asks it to


def test_what_is_written_names_the_vectors_that_are_added():
    written = row({"forget": LEFT}, alpha=0.5).to_json()
    assert (written["name"], written["alpha"]) == ("m", 0.5)
    assert [(one["vector"], one["coefficient"]) for one in written["operands"]] == [("/v", -1.0)]
    assert written["keep_rise"] == {"value": 2.0, "low": None, "high": None, "n": 1}
    assert written["remaining"] == {"forget": {"loss": LEFT.loss.to_json(), "rouge_l_f1": None}}


def test_a_base_is_written_so_that_it_is_found_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    operands = tuple(OperandRef("/v", 1.0, base=base) for base in ("base", "some/hub-id"))
    written = replace(row({}), edit=Edit(operands)).to_json()["operands"]
    assert [one["base"] for one in written] == [str(tmp_path / "base"), "some/hub-id"]
