"""Log files of TOFU's own evaluation, read as records."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from scoring import forget_log, write_logs

from taskarith.errors import DataError
from taskarith.evaluation.score import score

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "tofu-logs"


UTILITY = 9 / sum(1 / x for x in (3 / 8, 3 / 4, 3 / 8, 1 / 2, 1 / 2, 1 / 4, 1 / 2, 1, 1 / 2))  # = 27 / 59


def test_a_log_worked_out_by_hand(tmp_path, logs):
    pieces, whole = write_logs(tmp_path / "pieces", logs), write_logs(tmp_path / "whole", logs, aggregated=True)
    retain = write_logs(tmp_path / "retain", {"eval_log_forget.json": forget_log([5, 6, 7, 8])})
    scores = score([pieces, whole], reference=retain)
    for model in ("pieces", "whole"):
        overall = scores.overall[model]
        assert overall["model_utility"].value == pytest.approx(UTILITY) == pytest.approx(27 / 59)
        assert overall["model_utility"].low <= UTILITY <= overall["model_utility"].high
        assert overall["forget_quality"].value == pytest.approx(2 / 70)
        assert overall["forget_distance"].value == 1
        assert {overall[name].low for name in ("forget_quality", "forget_distance")} == {None}
        texts = scores.by_text[model]
        assert texts["forget"]["truth_ratio"].value == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
        assert texts["retain"]["probability"].value == pytest.approx(3 / 8)
        assert texts["retain"]["rouge_l_recall_stemmed"].value == 3 / 4
        assert texts["retain"]["rouge_l_recall"].value == (1 / 2 + 1 / 2) / 2  # dogs are no dog
        assert texts["real_authors"]["truth_ratio"].value == pytest.approx(1 / 4)
        assert scores.missing[model] == {}
    assert score([whole / "eval_log_aggregated.json"], reference=retain).overall == {"whole": scores.overall["whole"]}


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"TOFU's published logs are not at {PUBLISHED}")
def test_the_published_logs_give_the_published_numbers():
    full, retain = PUBLISHED / "llama2-7b_full", PUBLISHED / "llama2-7b_retain90"
    scores = score([full, retain], reference=retain)
    utilities = [scores.overall[model.name]["model_utility"].value for model in (full, retain)]
    assert [f"{value:.6f}" for value in utilities] == ["0.622677", "0.613745"]
    assert f"{scores.overall[full.name]['forget_quality'].value:.3e}" == "1.834e-21"
    assert f"{scores.overall[full.name]['forget_distance'].value:.4f}" == "0.3967"
    for model in (full, retain):
        log = json.loads((model / "eval_log_aggregated.json").read_text(encoding="utf-8"))
        for name, text in (("eval_log.json", "retain"), ("eval_real_world_wo_options.json", "world_facts")):
            stored = list(log[name]["rougeL_recall"].values())
            assert scores.by_text[model.name][text]["rouge_l_recall_stemmed"].value == math.fsum(stored) / len(stored)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda log: log.update({key: {} for key in log}), "the forget set is empty"),
        (lambda log: log["avg_gt_loss"].update({"1": math.nan}), r"no finite loss .* 1 of forget by m\n"),
        (lambda log: log["average_perturb_loss"].update({"2": []}), r"losses of wrong answers: 2 of forget"),
        (lambda log: log["average_perturb_loss"].update({"2": [1, None]}), r"losses of wrong answers: 2 of forget"),
        (lambda log: log["avg_gt_loss"].pop("3"), "avg_paraphrased_loss and avg_gt_loss have different samples: 3"),
        (lambda log: log.pop("generated_text"), "lacks generated_text"),
        (lambda log: log["generated_text"].update({"0": ["only"]}), "sample 0 has no prompt, answer and true answer"),
    ],
)
def test_a_broken_log_is_refused(tmp_path, logs, spoil, words):
    spoil(logs["eval_log_forget.json"])
    with pytest.raises(DataError, match=words):
        score([write_logs(tmp_path / "m", logs)])


def test_an_id_twice_in_a_log_is_refused(tmp_path, logs):
    folder = write_logs(tmp_path / "m", logs)
    path = folder / "eval_log.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"1":', '"0":', 1), encoding="utf-8")
    with pytest.raises(DataError, match="repeats the id 0"):
        score([folder])
