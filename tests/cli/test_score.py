"""`taskarith score` as a user types it."""

from __future__ import annotations

import json

import pytest
from commands import invoke

from taskarith.evaluation.records import loss_record
from taskarith.evaluation.score import score
from taskarith.report.paper import csv_text, latex_text


@pytest.fixture
def records(tmp_path):
    """Records of two models on one text, whose losses were chosen by hand."""
    rows = [loss_record(name, "forget", f"b{n}", nll, 10, 5) for name, nlls in LOSSES.items() for n, nll in nlls]
    (tmp_path / "records.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return tmp_path / "records.jsonl"


LOSSES = {"edited": [(0, 10.0), (1, 30.0)], "never": [(0, 40.0), (1, 40.0)]}


def test_numbers_are_recomputed_from_records_alone(records):
    done = invoke("score", records, "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, json.loads(json.dumps(score([records]).to_json())))
    found = json.loads(done.stdout)["scores"]
    assert [found[name]["forget"]["loss"]["value"] for name in LOSSES] == [2.0, 4.0]
    assert " 2.000 " in invoke("score", records).stdout
    assert records.parent.joinpath("results.json").exists() is False  # it prints, and writes nothing


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--finetuned", "piqa"], "cannot read --finetuned 'piqa'"),
        (["--finetuned", "=runs/piqa"], "cannot read --finetuned '=runs/piqa'"),
        (["--finetuned", "piqa=a", "--finetuned", "piqa=b"], "--finetuned names a task twice"),
    ],
)
def test_references_that_cannot_be_read(records, words, message):
    done = invoke("score", records, *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_folder_gets_the_numbers_and_a_page(records, tmp_path):
    done = invoke("score", records, "--reference", "never", "-o", tmp_path / "scores")
    assert done.exit_code == 0
    assert f"results, records and report.html are in {tmp_path / 'scores'}" in done.stderr
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {
        "records.jsonl",
        "report.html",
        "results.json",
        "taskarith.json",
    }
    assert invoke("report", tmp_path / "scores", "-o", tmp_path / "all.html").exit_code == 0
    assert invoke("score", tmp_path / "scores", "-o", tmp_path / "scores").exit_code == 1
    assert invoke("score", records, "-o", tmp_path / "scores").exit_code == 1
    assert invoke("score", records, "-o", tmp_path / "scores", "--overwrite").exit_code == 0


def test_formats_for_other_programs(records):
    def printed(form, *more):
        done = invoke("score", records, "--format", form, *more)
        assert done.exit_code == 0
        return done.stdout

    lines = printed("markdown").splitlines()
    assert lines[:2] == ["| model | forget loss | forget top-1 |", "| --- | ---: | ---: |"]
    assert lines[2].startswith("| edited | 2.000")
    assert "**forget: 2 samples**" in printed("markdown", "--full")
    assert printed("csv") == csv_text(score([records]).tidy())
    assert printed("latex") == latex_text(score([records]).tidy())
    assert printed("table") == invoke("score", records).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--format", "xls"], "unknown format 'xls'"), (["--format", "csv", "--json"], "exclude each other")],
)
def test_formats_that_there_are_not(records, words, message):
    done = invoke("score", records, *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
