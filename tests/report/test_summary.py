"""One row a model: the numbers that are looked at first, in 80 columns."""

from __future__ import annotations

from taskarith.evaluation.metrics.intervals import Estimate, Spread
from taskarith.evaluation.score import Scores
from taskarith.report.summary import summary_tables
from taskarith.report.tables import width_of

LOSS = Estimate(0.5, 0.4, 0.6, 8)


def _scores(by_text, overall=None, models=("runs/base", "runs/tuned")):
    texts = tuple(by_text)
    return Scores(
        models,
        texts,
        dict.fromkeys(models, by_text),
        dict.fromkeys(models, overall or {}),
        {model: {} for model in models},
    )


def test_a_narrow_table_has_intervals_and_a_row_a_model():
    (table,) = summary_tables(_scores({"forget": {"loss": LOSS, "rouge_l_f1": LOSS, "perplexity": LOSS}}))
    assert table.columns == ("model", "forget\nloss", "forget\nROUGE-L F1")
    assert table.rows == (
        ("base", "0.500 [0.400, 0.600]", "0.500 [0.400, 0.600]"),
        ("tuned", "0.500 [0.400, 0.600]", "0.500 [0.400, 0.600]"),
    )
    assert "with 95% intervals" in table.title


def test_a_wide_table_loses_intervals_before_numbers_and_says_where_they_are():
    by_text = {name: {"loss": LOSS, "rouge_l_f1": LOSS} for name in ("forget", "retain", "holdout")}
    (table,) = summary_tables(_scores(by_text))
    assert table.rows[0] == ("base", *["0.500"] * 6)
    assert table.title == "95% intervals and every number: --full"
    many = summary_tables(_scores({f"a text of number {n}": {"loss": LOSS} for n in range(20)}))
    assert len(many) > 1
    assert all(width_of(table) <= 80 for table in many)


def test_a_wide_terminal_shows_more():
    scores = _scores({name: {"loss": LOSS, "rouge_l_f1": LOSS, "accuracy": LOSS} for name in ("forget", "retain")})
    tables = [summary_tables(scores, width)[0] for width in (80, 110, 170)]
    assert [len(table.columns) for table in tables] == [7, 5, 7]
    assert ["[" in table.rows[0][1] for table in tables] == [False, True, True]
    assert all(width_of(table) <= width for table, width in zip(tables, (80, 110, 170), strict=True))


def test_the_numbers_of_a_paper_come_first():
    question = {"probability": LOSS, "rouge_l_recall_stemmed": LOSS, "truth_ratio": LOSS}
    overall = {"model_utility": Estimate(0.6, None, None, 4), "forget_quality": Estimate(1e-3, None, None, 4)}
    (table, *_) = summary_tables(_scores({"forget": question, "retain": question}, overall))
    assert table.columns[1:4] == ("forget quality (TOFU, KS p)", "model utility (TOFU)", "forget\nprobability")


def test_several_seeds_say_how_many_and_what_stands_after_the_sign():
    spread = Spread(0.5, 0.1, 3)
    (table,) = summary_tables(_scores({"forget": {"loss": spread}}))
    assert table.title.startswith("mean ± standard deviation (n - 1) over 3 seeds")
    assert table.rows[0] == ("base", "0.500 ± 0.100")


def test_a_task_without_known_numbers_shows_its_first():
    (table,) = summary_tables(_scores({"piqa": {"acc,none": LOSS, "acc_norm,none": LOSS}}))
    assert table.columns == ("model", "piqa\nacc,none")
