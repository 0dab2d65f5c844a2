"""What lacks something is named and kept apart, and the rest goes on."""

from __future__ import annotations

import tiny

from taskarith.errors import DataError
from taskarith.evaluation import evaluate as verb
from taskarith.evaluation import run as rows
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.lm_eval import Tasks
from taskarith.evaluation.records import task_record

SMALL = {"block_size": 32, "prompts": 1, "prompt_tokens": 4, "continuation_tokens": 4}


def test_a_task_whose_data_are_out_of_reach_is_a_gap_among_ten(phi, monkeypatch, tmp_path):
    names = [f"task{number}" for number in range(10)]

    def run(loaded, tasks, row, measurement):
        (name,) = tasks.names
        if name == "task3":
            raise DataError(f"lm-eval cannot run {name} on {row}: the hub is out of reach", "Check the connection.")
        group = [task_record(row, "task0", "7", {"acc": 1.0})] if name == "task1" else []  # a part of a group
        return [*group, task_record(row, name, "7", {"acc": 1.0})]

    monkeypatch.setattr(verb, "find_tasks", lambda *_: Tasks(tuple(names), None))
    monkeypatch.setattr(rows, "run_tasks", run)
    found = evaluate([str(phi)], {}, tasks=names, output_dir=tmp_path / "out")
    row = str(phi)
    assert found.scores.missing[row] == {"task3": f"lm-eval cannot run task3 on {row}: the hub is out of reach"}
    assert set(found.scores.texts) == set(names) - {"task3"}
    assert [record["text"] for record in found.records].count("task0") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_holdout_of_three_samples_gives_what_three_can_give(phi, tmp_path):
    for name, text in (("forget", tiny.text(12)), ("holdout", " ".join(tiny.text(12, 1).split()[:60]))):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    texts = {name: str(tmp_path / f"{name}.txt") for name in ("forget", "holdout")}
    found = evaluate([str(phi)], texts, **SMALL)
    row, held = str(phi), [r for r in found.records if (r["kind"], r["text"]) == ("loss", "holdout")]
    assert 2 <= len(held) <= 4
    assert 0 <= found.scores.overall[row]["auc_loss"].value <= 1
    assert any("holdout" in why for why in found.scores.missing[row].values())
    assert {"loss", "rouge_l_f1"} <= found.scores.by_text[row]["forget"].keys()
