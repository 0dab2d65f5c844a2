"""``finetune --dry-run``: what the training says and does when it runs, and nothing written."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from commands import invoke
from transformers import PhiForCausalLM

from taskarith.errors import TaskarithError, UsageError
from taskarith.training.finetune import finetune
from taskarith.training.forecast import forecast_training

SMALL = {"block_size": 16, "device": "cpu"}
FULL_OF = [
    {},
    {"lora": True, "lora_rank": 2},
    {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "num_train_epochs": 1.5},
    {"packing": True, "num_train_epochs": 1},
    {"max_steps": 2},
    {"gradient_checkpointing": True, "num_train_epochs": 1, "dtype": "bfloat16"},
    {"objective": "simnpo", "num_train_epochs": 1},
    {"objective": "rmu", "num_train_epochs": 1, "lora": True},
    {"validation_share": 0.3, "num_train_epochs": 1},
]


class Notes:
    def __init__(self):
        self.notes = []

    def progress(self, *_):
        """Ignore progress."""

    def note(self, message):
        self.notes.append(message)

    @property
    def memory(self):
        """The estimate, without what there is."""
        return [note.partition(", and there")[0] for note in self.notes if note.startswith("memory, by estimate")]


@pytest.fixture
def texts(tmp_path):
    for number, name in enumerate(("forget", "retain")):
        (tmp_path / f"{name}.txt").write_text(tiny.text(12, number), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("options", FULL_OF, ids=str)
def test_a_forecast_is_what_comes(options, phi, texts):
    before, after = Notes(), Notes()
    call = {"retain": texts / "retain.txt"} if "objective" in options else {}
    found = forecast_training(phi, texts / "forget.txt", texts / "out", **call, **SMALL, **options, listener=before)
    assert {path.name for path in texts.iterdir()} == {"forget.txt", "retain.txt"}
    done = finetune(phi, texts / "forget.txt", texts / "out", **call, **SMALL, **options, listener=after)
    assert (found.kind, found.steps) == (done.kind, done.steps)
    assert before.memory == after.memory
    assert len(before.memory) == 1
    written = sum(path.stat().st_size for path in (texts / "out").glob("*.safetensors"))
    assert found.write_bytes <= written < found.write_bytes + 8000  # with headers
    json.dumps(found.to_json())


def test_a_frozen_base_in_16_bits_is_counted_so(tmp_path, texts):
    base, said = tiny.save_model(tmp_path / "base", dtype=torch.bfloat16), []
    options = {"lora": True, "bf16": True, "max_steps": 1}
    for run in (forecast_training, finetune):
        notes = Notes()
        run(base, texts / "forget.txt", texts / "out", **SMALL, **options, listener=notes)
        said.append(notes.memory)
    assert said[0] == said[1]


def test_a_model_without_gradient_checkpointing_is_refused(phi, texts, monkeypatch):
    monkeypatch.setattr(PhiForCausalLM, "supports_gradient_checkpointing", False)
    for run in (forecast_training, finetune):
        with pytest.raises(UsageError, match="does not support gradient checkpointing"):
            run(phi, texts / "forget.txt", texts / "out", **SMALL, gradient_checkpointing=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"block_size": 10**6},
        {"objective": "graddiff"},
        {"dtype": "int8"},
        {"lora": True, "lora_target": ("no_such",)},
        {"retain_weight": 2.0},
        {"validation_share": 1.5},
    ],
    ids=str,
)
def test_what_would_fail_fails_with_the_same_words(wrong, phi, texts):
    said = []
    for run in (forecast_training, finetune):
        with pytest.raises(TaskarithError) as failure:
            run(phi, texts / "forget.txt", texts / "out", **{**SMALL, **wrong})
        said.append(str(failure.value))
    assert said[0] == said[1]


def test_too_little_memory_is_said_before_any_weight_is_read(phi, texts, monkeypatch):
    monkeypatch.setattr("taskarith.training.forecast.available_memory", lambda _device: 500_000)
    with pytest.raises(TaskarithError, match="AdamW's states of this training take"):
        forecast_training(phi, texts / "forget.txt", texts / "out", **SMALL)
    notes = Notes()
    monkeypatch.setattr("taskarith.training.forecast.available_memory", lambda _device: 900_000)
    forecast_training(phi, texts / "forget.txt", texts / "out", **SMALL, lora=True, listener=notes)
    assert any(note.startswith("this may run out of memory. ") for note in notes.notes)


def test_the_command_says_it(phi, texts):
    words = ["finetune", phi, "--data", texts / "forget.txt", "-o", texts / "out", "--block-size", 16, "--dry-run"]
    done = invoke(*words)
    assert (done.exit_code, done.stdout.strip()) == (0, str(texts / "out"))
    assert "would train" in done.stderr
    assert "would write at least" in done.stderr
    values = json.loads(invoke(*words, "--json", "--until-loss", 0.5).stdout)
    assert values["dry_run"] is True
    assert values["steps"] > 0
    assert not (texts / "out").exists()
    (texts / "out").write_text("mine", encoding="utf-8")
    assert invoke(*words).exit_code == 1
