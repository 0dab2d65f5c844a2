"""A training that goes on until a loss is reached, and what is said of one that learned little."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from finetuning import Notes, distance, quick

from taskarith.training import finetune as module
from taskarith.training.finetune import finetune
from taskarith.training.result import FinetuneResult, _thinned, remark
from taskarith.training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")

LEARNING = {"learning_rate": 5e-3, "max_steps": None, "per_device_train_batch_size": 2}
RESULT = FinetuneResult(Path("out"), "full", 1.0, 40, 1000, 1.0, "", first_loss=4.0, data_loss=1.0)
SETTINGS = TrainingSettings(
    **quick(
        max_steps=None, num_train_epochs=None, until_loss=None, gradient_accumulation_steps=1, bf16=None, lora=False,
        gradient_checkpointing=False, lr_scheduler_type="linear", warmup_steps=0, weight_decay=0, max_grad_norm=1,
        dtype="float32", lora_rank=16, lora_alpha=None, lora_target=(), retain_weight=1, seed=1, save_steps=None,
        resume=False, report_to=(), trust_remote_code=False,
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return str(tiny.save_model(tmp_path_factory.mktemp("until") / "base", "llama"))


def test_training_ends_after_the_first_epoch_at_the_loss_and_resumes_to_the_same_bits(
    tmp_path, text, base, monkeypatch
):
    options = quick(**LEARNING, until_loss=4.0, save_steps=4)
    notes = Notes()
    result = finetune(base, [text], tmp_path / "whole", listener=notes, **options)
    record = json.loads((tmp_path / "whole/taskarith.json").read_text())
    assert (record["arguments"]["until_loss"], record["arguments"]["num_train_epochs"]) == (4.0, 30.0)
    epoch = -(-record["data"][0]["samples"] // 2)
    assert result.steps % epoch == 0
    assert epoch < result.steps < notes.steps[-1][2] == 30 * epoch
    assert result.data_loss == result.final_loss == record["data_loss"] <= 4.0 < record["first_loss"]
    assert not any("until-loss" in note for note in notes.notes)
    shorter = finetune(base, [text], tmp_path / "short", **{**options, "max_steps": result.steps - epoch})
    assert shorter.data_loss > 4.0

    def killed(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune(base, [text], tmp_path / "out", **{**options, "save_steps": epoch})
    assert list((tmp_path / ".out.training").glob("checkpoint-*"))
    again = finetune(base, [text], tmp_path / "out", resume=True, **{**options, "save_steps": epoch})
    assert again.steps == result.steps
    assert distance(tmp_path / "out", tmp_path / "whole") == 0


def test_the_loss_is_that_of_the_data_without_the_retain_set(tmp_path, text, other, base):
    frozen = quick(learning_rate=1e-12, max_steps=1, per_device_train_batch_size=64)
    alone = finetune(base, [text], tmp_path / "alone", **frozen)
    for number, more in enumerate(({"retain_weight": 0.0}, {"retain_weight": 3.0}, {"until_loss": 0.1})):
        mixed = finetune(base, [text], tmp_path / f"mixed{number}", retain=[other], **frozen, **more)
        assert mixed.data_loss == pytest.approx(alone.final_loss, rel=1e-5), more
        assert mixed.final_loss != pytest.approx(alone.final_loss, rel=1e-5), more


def test_a_long_curve_is_recorded_by_means_of_equally_many_steps():
    losses = [(step, float(step)) for step in range(1, 1502)]
    found = _thinned(losses)
    assert (len(found), found[:2], found[-1]) == (376, [(4, 2.5), (8, 6.5)], (1501, 1501.0))
    assert _thinned(losses[:500]) == losses[:500]


@pytest.mark.parametrize(
    ("result", "settings", "words"),
    [
        ({}, {}, None),
        ({"steps": 3, "data_loss": 3.32}, {}, "in 3 steps the loss went from 4.00 to 3.32"),
        ({"steps": 9}, {}, "in 9 steps"),
        ({"data_loss": 3.0}, {}, "per-device-train-batch-size 1"),
        ({"data_loss": 3.0, "steps": 5000}, {}, None),
        ({"data_loss": 3.9}, {"num_train_epochs": 1.0}, None),
        ({"steps": 3, "data_loss": 0.4}, {"until_loss": 0.5}, None),
        ({"first_loss": 0.26, "data_loss": 0.2}, {}, "the model already knows these data"),
        ({"first_loss": 0.26, "data_loss": 0.2}, {"until_loss": 0.5}, "fine-tune its base on them instead"),
        ({"first_loss": 0.26, "data_loss": 0.2}, {"lora": True}, "--learning-rate 0.003"),
        ({"first_loss": 0.6, "data_loss": 0.5, "steps": 5000}, {"num_train_epochs": 1.0}, None),
        (
            {},
            {"until_loss": 0.5},
            "0.5 was not reached: in 40 steps the loss went from 4.00 to 1.00. Raise --num-train",
        ),
        ({}, {"until_loss": 0.5, "max_steps": 40}, "Raise --max-steps"),
        ({"first_loss": 0.2, "data_loss": 4.0, "steps": 3}, {"objective": "ascent"}, None),
        ({"first_loss": 0.2, "data_loss": 0.21}, {"objective": "npo"}, "npo has hardly made the model forget them"),
        (
            {"first_loss": 0.2, "data_loss": 0.1},
            {"objective": "kl", "max_steps": 40},
            "(0.001) or --max-steps",
        ),
    ],
)
def test_what_is_said_of_a_training(result, settings, words):
    said = remark(replace(RESULT, **result), replace(SETTINGS, **settings))
    assert said is None if words is None else words in (said or "")
