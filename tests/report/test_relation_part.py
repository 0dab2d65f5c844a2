"""What a report says of how task vectors relate."""

from __future__ import annotations

import json

import pytest
from relating import relation

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.relations.verdict import Statement, Verdict
from taskarith.report.relation_part import relation_part


def _results(**changes):
    said = Statement("it works", ("it is small",))
    verdict = Verdict("one", "two", "aligned", Estimate(0.5, 0.3, 0.7, 8), said, said)
    return json.loads(json.dumps(relation(verdicts=(verdict,)).to_json())) | changes


def test_tables_and_the_verdict_come_from_the_results_alone():
    part = relation_part(_results())
    assert part.verdicts[0].startswith("one and two help each other")
    assert "correlation +0.500 (+0.300 to +0.700)" in part.verdicts[0]
    norms, cosines = part.tables
    assert norms.rows[0] == ("all", "5", "10")  # 3 and 4, 6 and 8
    assert dict(cosines.rows)["cosine, mlp"] == "-0.500"
    assert dict(cosines.rows)["overlap of the largest 1%"] == "+0.250"
    assert dict(cosines.rows)["overlap of the largest 10%"] == "-"


def test_without_a_test_set_nothing_is_claimed():
    assert relation_part(_results(verdicts=[])).verdicts[0].startswith("Nothing is said")


@pytest.mark.parametrize("broken", [{"verdicts": [{"first": "one"}]}, {"weights": {}}, {"weights": 3}])
def test_broken_results_raise_what_the_report_turns_into_an_error(broken):
    with pytest.raises((KeyError, TypeError, ValueError)):
        relation_part(_results(**broken))
