"""FSDP2 shards and publishes all weights, tied ones too; DeepSpeed is told to keep them in float32."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
import tiny
import torch
from finetuning import Notes, distance, quick
from sharded import FSDP2

from taskarith.errors import UsageError
from taskarith.training import engines
from taskarith.training.engines import adapt_engine, engine_errors, told_bf16
from taskarith.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("one_thread")

_CODE = """
import json, os
from sharded import allow_on_cpus
allow_on_cpus()
import torch
from torch.distributed.tensor import DTensor
from taskarith.errors import OutputError
from taskarith.training import fit, trainer
from taskarith.training.finetune import finetune

def step(self, *arguments, **options):
    shards = [weight for weight in self.model_wrapped.parameters() if isinstance(weight, DTensor)]
    assert shards and all(2 * len(weight.to_local()) == len(weight) for weight in shards)
    return whole_step(self, *arguments, **options)

def full(*_):
    raise OutputError("the disk is full", "Free some space.")

whole_step, write = trainer.ResumableTrainer.training_step, fit.write_provenance
trainer.ResumableTrainer.training_step = step
for name, base, data, options in CALLS:
    if name in ("llama", "best"):
        fit.write_provenance = full
        try:
            finetune(base, data, name + "-two", **options)
        except OutputError as error:
            assert "run the same command with --resume" in error.__notes__[0]
        else:
            raise AssertionError("it was published")
        fit.write_provenance = write
        torch.distributed.barrier()
        options["resume"] = True
    result = finetune(base, data, name + "-two", **options)
    assert abs(result.final_loss - LOSSES[name]) < 1e-3, (name, result, LOSSES)
"""


@pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="FSDP2 of this torch needs a GPU: a CPU's streams lack events"
)
def test_fsdp2_trains_and_publishes_what_one_process_does(tmp_path, text, other, phi, run_on_two):
    """Also where the embedding is the head, publishing fails at first, or the base or earlier weights are needed."""
    tied = str(tiny.save_model(tmp_path / "tied", "llama"))
    calls = [("llama", tied, {}), ("phi", str(phi), {}), ("lora", tied, {"lora": True})]
    unlike = tmp_path / "unlike.txt"
    unlike.write_text("".join(str(number**3) for number in range(80)), encoding="utf-8")
    validated = {"validation": [str(unlike)], "validation_steps": 1, "learning_rate": 5e-2, "max_steps": 4}
    calls.append(("best", tied, validated))
    calls += [
        (objective, base, {"objective": objective, "lora": lora, "retain": [other]})
        for objective, base, lora in (("kl", str(phi), False), ("npo", tied, True), ("rmu", str(phi), False))
    ]
    calls.append(("bf16", tied, {"bf16": True}))
    losses = {}
    for name, base, more in calls:
        result = finetune(base, [text], tmp_path / f"{name}-one", **quick(**more))
        losses[name] = result.final_loss
        assert name != "best" or result.best_step < result.steps
    halved = quick(per_device_train_batch_size=2)
    given = [(name, base, [text], halved | more) for name, base, more in calls]
    run_on_two(f"CALLS, LOSSES = {given!r}, {losses!r}\n{_CODE}", tmp_path, **FSDP2)
    for name, _, _, options in given:
        limit = 0.02 * options["learning_rate"]  # which each of two steps of Adam may move a weight
        assert name == "bf16" or distance(tmp_path / f"{name}-one", tmp_path / f"{name}-two") < limit, name
    assert not list(tmp_path.glob(".*"))


def test_without_the_engine_that_was_asked_for_a_note_says_so(tmp_path, text, phi, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    notes = Notes()
    finetune(str(phi), [text], tmp_path / "out", listener=notes, **quick(max_steps=1))
    assert notes.notes[0].startswith("FSDP is not used: accelerate trains with DDP on a CPU")
    monkeypatch.setattr(engines, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(UsageError, match="transformers has spread the weights for DeepSpeed ZeRO-3") as raised:
        finetune(str(phi), [text], tmp_path / "more", **quick(max_steps=1))
    assert raised.value.hint == "On a CPU start the processes without DeepSpeed: accelerate trains with DDP."


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_weights_that_deepspeed_would_round_are_refused(tmp_path, text, phi, monkeypatch, dtype):
    config = tmp_path / "zero.json"
    config.write_text(json.dumps({dtype: {"enabled": True}}), encoding="utf-8")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(config))
    with pytest.raises(UsageError, match=f"zero.json turns on {dtype}: DeepSpeed would round the weights"):
        finetune(str(phi), [text], tmp_path / "out", **quick())
    config.unlink()
    with pytest.raises(UsageError, match=r"cannot read .*zero\.json") as raised:
        finetune(str(phi), [text], tmp_path / "out", **quick())
    assert raised.value.hint == "Give accelerate a DeepSpeed configuration in JSON."


def test_deepspeed_calculates_under_autocast_and_gathers_its_weights(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.delenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", raising=False)
    arguments = SimpleNamespace(mixed_precision="no", train_batch_size=4, world_size=2)
    with pytest.raises(UsageError, match="this DeepSpeed calculates in bfloat16 with rounded weights only"):
        told_bf16(bf16=True)  # it is not installed
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert not told_bf16(bf16=False)
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "no"
    config = {"zero_optimization": {"stage": 3}}
    state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(deepspeed_config=config))
    trainer = SimpleNamespace(
        is_fsdp_enabled=False,
        is_deepspeed_enabled=True,
        accelerator=SimpleNamespace(state=state),
        args=arguments,
        train_dataset=range(3),
    )
    notes = Notes()
    adapt_engine(trainer, notes, bf16=True)
    assert config["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]
    assert arguments.mixed_precision == "bf16"
    assert notes.notes == ["1 of 2 processes never have a row: there are 3, in batches of 4"]


def test_contradictions_with_deepspeeds_configuration_are_named():
    lines = "Please correct the following DeepSpeed config values\n- ds clip=1 vs hf max_grad_norm=0\nThe easiest ..."
    with pytest.raises(UsageError, match="contradicts the options: - ds clip=1 vs hf max_grad_norm=0"), engine_errors():
        raise ValueError(lines)
    with pytest.raises(ValueError, match="another"), engine_errors():
        raise ValueError("another")
