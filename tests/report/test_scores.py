"""Scores as people read them: a compact table of each text, the rest behind it, and what is missing."""

from __future__ import annotations

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.evaluation.score import Scores
from taskarith.report.scores import score_remarks, score_tables


def estimate(value):
    return Estimate(value, value - 0.5, value + 0.5, 9)


SCORES = Scores(
    ("runs/before", "runs/after"),
    ("forget",),
    {
        "runs/before": {
            "forget": {"loss": estimate(1), "accuracy": estimate(0.9), "exact_memorisation": estimate(0.8)}
        },
        "runs/after": {"forget": {"loss": estimate(4), "accuracy": estimate(0.1)}},
    },
    {"runs/before": {"model_utility": estimate(0.5)}, "runs/after": {}},
    {"runs/before": {}, "runs/after": {"auc_loss": "needs a holdout", "auc_zlib": "needs a holdout"}},
    ("the samples are others",),
)


def test_each_text_has_a_compact_table_and_one_of_the_rest():
    compact, rest, overall = score_tables(SCORES)
    assert compact.columns == ("model", "loss", "top-1")
    assert compact.rows == (("before", "1.000 [0.500, 1.500]", "0.900"), ("after", "4.000 [3.500, 4.500]", "0.100"))
    assert (rest.title, rest.columns) == ("forget: memorisation", ("model", "exact memorisation"))
    assert rest.rows[1] == ("after", "-")
    assert overall.columns == ("", "before", "after")
    assert overall.rows[0] == ("model utility (TOFU)", "0.500000 [0.000000, 1.000000]", "-")


def test_what_is_missing_is_said_once_for_each_reason():
    missing, remark = score_remarks(SCORES)
    assert missing == "missing: AUC of loss, AUC of loss / zlib: needs a holdout"
    assert remark == "the samples are others"


def test_the_same_number_against_references_of_several_seeds_is_one_column():
    beside = {f"s{n}/edited": {"forget": {f"kl from s{n}/before": estimate(n)}} for n in (1, 2)}
    scores = Scores(tuple(beside), ("forget",), beside, {name: {} for name in beside}, {name: {} for name in beside})
    (table,) = score_tables(scores)
    assert table.columns == ("model", "KL")
    assert "against before" in table.title
    assert [row[1] for row in table.rows] == ["1.000 [0.500, 1.500]", "2.000 [1.500, 2.500]"]
