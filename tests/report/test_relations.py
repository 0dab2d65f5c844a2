"""How vectors relate as people read it: rows of text, and the picture of their cosines."""

from __future__ import annotations

from relating import relation

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.relations.verdict import Statement, Verdict
from taskarith.report.relations import relation_tables, verdict_lines


def test_norms_and_measures_of_weights_are_shown_by_pair():
    norms, weights = relation_tables(relation())
    assert norms.columns == ("", "one", "two")
    assert norms.rows[0] == ("all", "5", "10")
    assert norms.rows[1] == ("without embeddings and head", "4", "8")
    assert weights.columns == ("", "one - two")
    shown = dict(weights.rows)
    assert (shown["cosine"], shown["sign agreement"]) == ("+0.040", "+0.750")
    assert shown["  layers, lowest to highest"] == "-0.500 to -0.500"
    assert shown["overlap of the largest 1%"] == "+0.250"
    assert shown["overlap of the largest 10%"] == "-"  # one of them has none


def test_a_verdict_is_told_with_what_it_rests_on():
    statements = Statement("it works", ("linearity",)), Statement("it does not", ("linearity", "one base"))
    found = relation(
        verdicts=(Verdict("one", "two", "undecided", Estimate(0.1, -0.2, 0.4, 9), *statements, "of width"),)
    )
    assert verdict_lines(found)[:5] == [
        "one and two: undecided, alpha +0.100 (-0.200 to +0.400)",
        "  because of width",
        "  addition: it works",
        "  negation: it does not",
        "This assumes: linearity; one base.",
    ]
    assert "--data NAME=FILE" in verdict_lines(found)[-1]
