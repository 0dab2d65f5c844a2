"""Normalised accuracy of merges from records, by hand."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.evaluation.records import loss_record, task_record
from taskarith.evaluation.score import score


def records(model, **tasks):
    """Records of a model: of each task a string of right (1) and wrong (0) answers."""
    return [
        task_record(model, task, str(number), {"acc_norm": 0.5, "acc": float(hit)})
        for task, hits in tasks.items()
        for number, hit in enumerate(hits)
    ]


@pytest.fixture
def three(tmp_path):
    path = tmp_path / "records.jsonl"
    made = records("merged", a="1100110", b="0011") + records("of a", a="1111110", b="0000")
    made += records("of b", a="0000000", b="1011")
    made += [loss_record("merged", "text", "0", 3.0, 8, 4), loss_record("of a", "text", "0", 3.0, 8, 8)]
    path.write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


def test_accuracy_is_that_of_the_fine_tuned_model_of_each_task(three):
    found = score([three], finetuned={"a": "of a", "b": "of b", "text": "of a"})
    merged = found.overall["merged"]
    assert merged["normalised_accuracy of a"].value == pytest.approx(4 / 6)
    assert merged["normalised_accuracy of b"].value == pytest.approx(2 / 3)
    assert merged["normalised_accuracy of text"].value == 0.5
    assert merged["normalised_accuracy"].value == pytest.approx((4 / 6 + 2 / 3 + 0.5) / 3)
    assert merged["normalised_accuracy of a"].low < 4 / 6 < merged["normalised_accuracy of a"].high
    assert found.overall["of a"]["normalised_accuracy of a"].value == 1
    assert found.missing["of b"]["normalised_accuracy of text"].endswith("of b has no records of text")
    assert "normalised_accuracy" not in found.overall["of b"]
    alone = score([three], finetuned={"a": "of a"}).overall["merged"]
    assert "normalised_accuracy" not in alone  # it would be the same number
    assert "normalised accuracy of a" in run(three, "--finetuned", "a=of a", "--full").stdout
    assert "normalised_accuracy" in json.loads(run(three, "--finetuned", "a=of a", "--json").stdout)["conventions"]


def test_records_of_the_fine_tuned_model_may_lie_elsewhere(three, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(map(json.dumps, records("tuned", a="1111000"))), encoding="utf-8")
    assert score([three], finetuned={"a": other}).overall["merged"]["normalised_accuracy of a"].value == 1
    other.write_text("\n".join(map(json.dumps, records("tuned", a="11"))), encoding="utf-8")
    why = score([three], finetuned={"a": other}).missing["merged"]["normalised_accuracy of a"]
    assert "different samples of a: 2, 3, 4, 5, 6" in why


def test_what_it_lacks_is_named(three):
    assert score([three]).missing["merged"]["normalised_accuracy"].startswith("needs the model fine-tuned")
    why = score([three], finetuned={"b": "of a"}).missing["merged"]["normalised_accuracy of b"]
    assert "a fine-tuned model gets nothing right in its task" in why


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--finetuned", "a"], "cannot read --finetuned 'a'"),
        (["--finetuned", "a=x", "--finetuned", "a=y"], "names a task twice"),
        (["--finetuned", "c=of a"], "--finetuned names c, which the records do not contain"),
        (["--finetuned", "a=nowhere"], "no records at nowhere"),
    ],
)
def test_wrong_calls(three, options, words):
    done = run(three, *options)
    assert done.exit_code in {1, 2}
    assert words in " ".join(done.stderr.split())
