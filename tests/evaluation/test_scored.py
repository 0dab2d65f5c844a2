"""The folder of `score`: what was recomputed, from what, and read again."""

from __future__ import annotations

import json
import math

import pytest

from taskarith.errors import CheckpointError, OutputError
from taskarith.evaluation import scored
from taskarith.evaluation.metrics.intervals import Estimate, Spread
from taskarith.evaluation.read_records import read_records
from taskarith.evaluation.records import loss_record
from taskarith.evaluation.score import Scores, score
from taskarith.evaluation.scored import read_scores, write_scores
from taskarith.inspection.verify import verify
from taskarith.report.folders import part_of

LOSSES = {"before": (1, 2, 1, 2, 1), "edited": (38, 41, 37, 42, 40), "never": (40, 41, 40, 42, 40)}


def records_of(folder, *models, scale=1.0):
    """Write records of models on samples of ten tokens of two texts."""
    folder.mkdir()
    rows = [
        loss_record(model, text, f"b{number}", scale * nll, 10, 5)
        for model in models
        for text in ("forget", "retain")
        for number, nll in enumerate(LOSSES[model] * 4)
    ]
    (folder / "records.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


def written(target, records, **options):
    scores = write_scores(records, target, **options)
    assert scores == score(records, **options)
    return scores


def test_scores_come_back_from_their_plain_values():
    numbers = {"perplexity": Estimate(math.inf, 2.0, None, 3), "loss": Spread(1.5, None, 2)}
    scores = Scores(("a",), ("forget",), {"a": {"forget": numbers}}, {"a": {}}, {"a": {"kl": "is missing"}}, ("no",))
    assert read_scores(json.loads(json.dumps(scores.to_json()))) == scores


def test_a_folder_holds_numbers_and_records_and_is_scored_again(tmp_path):
    whole = records_of(tmp_path / "eval", *LOSSES)
    scores = written(tmp_path / "scores", [whole], reference="never")
    assert score(tmp_path / "scores", reference="never") == scores
    assert read_records(tmp_path / "scores") == read_records(whole)
    assert verify(tmp_path / "scores").kind == "scores"
    part = part_of(tmp_path / "scores")
    assert part.title == "Scores"
    assert any("edited has forgotten most of the text forget" in one for one in part.verdicts)


def test_a_reference_from_elsewhere_is_a_row_of_the_records(tmp_path):
    some, other = records_of(tmp_path / "a", "before", "edited"), records_of(tmp_path / "b", "never")
    scores = written(tmp_path / "scores", some, reference=other)
    assert scores.models == ("before", "edited")
    assert {record["model"] for record in read_records(tmp_path / "scores")} == set(LOSSES)
    assert any("edited has forgotten" in one for one in part_of(tmp_path / "scores").verdicts)
    record = json.loads((tmp_path / "scores/taskarith.json").read_text())
    assert record["arguments"]["reference"] == "../b"
    assert [one["name"] for one in record["records"]] == ["../a/records.jsonl", "../b/records.jsonl"]
    assert str(tmp_path) not in str(part_of(tmp_path / "scores").facts)


def test_models_of_one_name_stay_apart(tmp_path):
    first, second = records_of(tmp_path / "a", "edited"), records_of(tmp_path / "b", "edited", scale=2.0)
    scores = written(tmp_path / "scores", [first, second], reference=records_of(tmp_path / "c", "edited", scale=3.0))
    rows = {record["model"] for record in read_records(tmp_path / "scores")}
    assert rows == {*scores.models, "edited"}
    assert len(scores.models) == 2


def test_seeds_are_summed_up_without_records(tmp_path):
    seeds = [records_of(tmp_path / name, "before", "edited", scale=scale) for name, scale in (("a", 1.0), ("b", 2.0))]
    scores = written(tmp_path / "scores", seeds, seeds=True)
    assert not (tmp_path / "scores/records.jsonl").exists()
    assert read_scores(json.loads((tmp_path / "scores/results.json").read_text())) == scores
    assert part_of(tmp_path / "scores").verdicts[0].startswith("These are means over several seeds")


@pytest.mark.parametrize("where", ["eval", "eval/more"])
def test_what_is_read_is_never_the_output(where, tmp_path):
    whole = records_of(tmp_path / "eval", *LOSSES)
    before = (whole / "records.jsonl").read_bytes()
    with pytest.raises(OutputError):
        write_scores(whole, tmp_path / where, overwrite=True)
    assert (whole / "records.jsonl").read_bytes() == before
    assert [*whole.iterdir()] == [whole / "records.jsonl"]


def test_records_that_change_meanwhile_are_not_mixed(tmp_path, monkeypatch):
    whole = records_of(tmp_path / "eval", *LOSSES)

    def change(*arguments, **options):
        found = score(*arguments, **options)
        text = (whole / "records.jsonl").read_text()
        (whole / "records.jsonl").write_text(text.replace("40.0", "4.5"))
        return found

    monkeypatch.setattr(scored, "score", change)
    with pytest.raises(CheckpointError, match="chang"):
        write_scores(whole, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()
