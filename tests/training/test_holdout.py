"""What is held out of a training, and validation data that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from finetuning import Notes, quick

from taskarith.checkpoints.provenance import read_provenance
from taskarith.data.tokens import Sample
from taskarith.errors import DataError, UsageError
from taskarith.training.examples import Example
from taskarith.training.finetune import finetune
from taskarith.training.holdout import _split

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 3}, "--patience is set, but there are no validation data"),
        ({"validation_steps": 3}, "--validation-steps is set, but there are no validation data"),
        ({"validation": ["x"], "validation_share": 0.1}, "--validation and --validation-share are both given"),
        *(({"validation_share": share}, f"--validation-share is {share}") for share in (0.0, 1.0, -0.1, float("nan"))),
        ({"validation": ["x"], "validation_steps": 0}, "--validation-steps is 0"),
        ({"validation": ["x"], "patience": 0}, "--patience is 0"),
        ({"validation_share": 0.1, "stride": 16}, "--stride makes blocks that overlap"),
        ({"validation": ["x"], "until_loss": 0.5}, "--until-loss publishes the weights of the last step"),
        *(
            ({"validation_share": 0.1, "objective": name}, f"--objective {name} is to forget")
            for name in ("ascent", "npo")
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_loaded(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        finetune("no/such/model", ["no-such.txt"], tmp_path / "out", **options)


def written(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


TEXTS = [tiny.text(1, seed=number) for number in range(6)]


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (TEXTS, "the validation data validate nothing: all of their 6 rows are also trained on"),
        (TEXTS[4:1:-1], "all of their 3 rows are also trained on"),
        ([], "held.jsonl has no text"),
        (["", " "], "held.jsonl"),
        (["a"], "held.jsonl is too short"),
    ],
)
def test_data_that_validate_nothing_are_refused(tmp_path, phi, held, message):
    trained, path = written(tmp_path / "trained.jsonl", TEXTS), written(tmp_path / "held.jsonl", held)
    with pytest.raises(DataError, match=message):
        finetune(str(phi), [trained], tmp_path / "out", validation=[path], **quick())
    assert not (tmp_path / "out").exists()


def test_the_same_text_is_refused_though_it_is_cut_elsewhere(tmp_path, phi, text):
    with pytest.raises(DataError, match="the validation data validate nothing"):
        finetune(str(phi), [text], tmp_path / "out", validation=[text], stride=20, **quick())


def test_rows_of_the_retain_set_are_trained_on_too_and_some_common_rows_are_noted(tmp_path, phi):
    trained, kept = written(tmp_path / "trained.jsonl", TEXTS[:2]), written(tmp_path / "kept.jsonl", TEXTS[2:4])
    with pytest.raises(DataError, match="all of their 2 rows"):
        finetune(str(phi), [trained], tmp_path / "out", retain=[kept], validation=[kept], **quick())
    notes, held = Notes(), written(tmp_path / "held.jsonl", TEXTS[3:])
    finetune(str(phi), [trained], tmp_path / "out", retain=[kept], validation=[held], listener=notes, **quick())
    assert notes.notes[0] == "1 of the 3 rows to validate on are also trained on"


@pytest.mark.parametrize(("share", "count"), [(0.2, 2), (0.5, 5), (0.9, 9)])
def test_a_share_is_drawn_from_the_data_by_the_seed(share, count):
    examples = [Example(Sample(f"{number}", (number, 1), 0), 1.0, number >= 10) for number in range(14)]
    trained, held = _split(examples, share, 7)
    assert len(held) == count
    assert not any(example.retained for example in held)
    assert sorted([*trained, *held], key=examples.index) == examples
    assert (trained, held) == _split(examples, share, 7)
    assert any(_split(examples, share, seed)[1] != held for seed in range(5))


@pytest.mark.parametrize(("share", "side"), [(0.01, "validate on"), (0.99, "train on")])
def test_a_share_that_leaves_nothing_is_refused(share, side):
    examples = [Example(Sample(f"{number}", (number, 1), 0)) for number in range(10)]
    with pytest.raises(DataError, match=f"of 10 rows or blocks leaves none to {side}"):
        _split(examples, share, 7)


def test_the_record_says_what_was_held_out(tmp_path, phi, text):
    result = finetune(str(phi), [text], tmp_path / "out", validation_share=0.25, **quick())
    record = read_provenance(tmp_path / "out")
    assert record is not None
    assert result.best_step == 2
    samples = record["data"][0]["samples"]
    assert (record["validation"][0]["share"], record["validation"][0]["samples"]) == (0.25, round(samples / 4))
    assert record["arguments"]["validation_share"] == 0.25
