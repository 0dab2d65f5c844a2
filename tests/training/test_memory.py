"""The memory of a training: estimates by their theory and by what torch keeps, refusals, and running out of it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from finetuning import Notes, quick
from transformers import AutoModelForCausalLM

from taskarith.errors import TaskarithError
from taskarith.progress import SILENT
from taskarith.training import memory, trainer
from taskarith.training.finetune import finetune
from taskarith.training.lora import add_lora
from taskarith.training.memory import MemoryPlan, plan_memory
from taskarith.training.resume import last_checkpoint
from taskarith.training.settings import TrainingSettings
from taskarith.training.trainer import ResumableTrainer

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, TOKENS = 4, 48


def planned(model: Any, precision: str = "no", processes: int = 1, room: int | None = None, **more: Any) -> MemoryPlan:
    settings = TrainingSettings(per_device_train_batch_size=ROWS, **more)
    arguments: Any = SimpleNamespace(mixed_precision=precision, world_size=processes)
    examples: Any = [SimpleNamespace(sample=SimpleNamespace(input_ids=range(TOKENS)))] * ROWS
    return plan_memory(model, settings, arguments, examples, room)


def kept(model: torch.nn.Module, autocast: bool) -> int:
    """Return the bytes that torch keeps for the backward pass."""
    ids = torch.arange(ROWS * TOKENS).reshape(ROWS, TOKENS)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", enabled=autocast):
        model(input_ids=ids, labels=ids, use_cache=False)
    return sum(storage.nbytes() for place, storage in seen.items() if place not in own)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("kind", ["phi", "llama", "qwen2", "moe", "gpt_neox", "gemma3"])
def test_activations_are_nearly_what_torch_keeps(kind, autocast):
    model = AutoModelForCausalLM.from_config(tiny.configuration(kind)).train()
    plan = planned(model, "bf16" if autocast else "no")
    logits = 2 * 4 * ROWS * TOKENS * plan.vocabulary  # beside the log-softmax, which is kept
    assert 0.6 < plan.parts["activations"] / (kept(model, autocast) + logits) < 1.4


def test_weights_gradients_and_moments_are_those_of_adamw():
    model = AutoModelForCausalLM.from_config(tiny.configuration("llama"))
    number = sum(parameter.numel() for parameter in model.parameters())
    parts = planned(model).parts
    assert (parts["weights"], parts["gradients"], parts["AdamW"]) == (4 * number, 4 * number, 8 * number)
    assert planned(model, processes=2).parts["gradients"] == 8 * number
    expected = next(plan for plan in planned(model)._smaller() if plan.settings.lora)
    adapted = planned(add_lora(model, TrainingSettings(lora=True), SILENT), lora=True)
    assert adapted.trained == expected.trained
    assert adapted.parts["weights"] == 4 * (number + adapted.trained)
    assert adapted.parts["activations"] == parts["activations"]


def test_advice_names_the_nearest_settings_that_fit():
    plan = planned(AutoModelForCausalLM.from_config(tiny.configuration("llama")))
    smaller = list(plan._smaller())
    assert smaller[0] == plan
    for wanted in smaller:
        effective = wanted.settings.per_device_train_batch_size * wanted.settings.gradient_accumulation_steps
        assert effective == ROWS
        first = next(other for other in smaller if other.total <= wanted.total)
        assert f"By estimate {first.total / 1e6:.1f} MB are enough with" in plan.advice(wanted.total)
    words = plan.advice(smaller[1].total)
    assert words.endswith("with --per-device-train-batch-size 2 --gradient-accumulation-steps 2.")
    assert "smaller model or --block-size" in plan.advice(1000)
    assert not any(each.settings.gradient_checkpointing for each in replace(plan, can_checkpoint=False)._smaller())


@pytest.mark.parametrize("lora", [False, True])
def test_a_training_that_cannot_fit_is_refused_before_the_first_step(tmp_path, text, phi, monkeypatch, lora):
    sizes = [tensor.numel() for tensor in AutoModelForCausalLM.from_pretrained(phi).parameters()]
    monkeypatch.setattr(memory, "available_memory", lambda _: 4 * sum(sizes) - 1)
    with pytest.raises(TaskarithError, match=r"the weights of .* take [0-9.]+ MB"):
        finetune(str(phi), [text], tmp_path / "out", lora=lora, **quick())
    monkeypatch.setattr(memory, "available_memory", lambda _: 12 * sum(sizes))
    notes = Notes()
    if lora:  # its activations are what may not fit
        finetune(str(phi), [text], tmp_path / "out", lora=True, listener=notes, **quick())
        assert notes.notes[1].startswith("memory, by estimate: ")
        assert notes.notes[2].startswith("this may run out of memory. ")
        return
    with pytest.raises(TaskarithError, match=r"weights, gradients and AdamW's states of this training take an"):
        finetune(str(phi), [text], tmp_path / "out", listener=notes, **quick())
    assert list(tmp_path.iterdir()) == []
    assert not notes.steps


def _out_of_memory(how: str) -> None:
    if how == "CPU":
        torch.empty(2**46)
    raise MemoryError if how == "Python" else torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. Of")


@pytest.mark.parametrize("how", ["CPU", "CUDA", "Python"])
def test_running_out_of_memory_is_one_error_that_names_settings_and_keeps_the_checkpoint(
    tmp_path, text, phi, monkeypatch, how
):
    step = ResumableTrainer.training_step

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        if self.state.global_step == 3:
            _out_of_memory(how)
        return step(self, *arguments, **options)

    options = quick(max_steps=4, save_steps=2)
    with monkeypatch.context() as patched:
        patched.setattr(ResumableTrainer, "training_step", training_step)
        with pytest.raises(TaskarithError, match="out of memory while training: ") as raised:
            finetune(str(phi), [text], tmp_path / "out", **options)
    reason = {"CPU": "allocate", "CUDA": "CUDA out of memory", "Python": "MemoryError"}[how]
    assert reason in raised.value.message
    assert "--per-device-train-batch-size" in raised.value.hint
    assert raised.value.__notes__ == ["The last checkpoint is kept: run the same command with --resume to continue."]
    assert last_checkpoint(tmp_path / ".out.training") == tmp_path / ".out.training/checkpoint-2"
    for place in (trainer.Trainer, "_load_optimizer_and_scheduler"), (trainer, "load_trained"):
        with monkeypatch.context() as patched:
            patched.setattr(*place, lambda *_: _out_of_memory(how))
            with pytest.raises(TaskarithError, match="out of memory"):
                finetune(str(phi), [text], tmp_path / "out", resume=True, **options)
    assert finetune(str(phi), [text], tmp_path / "out", resume=True, **options).steps == 4


def test_nothing_is_estimated_of_weights_that_are_spread(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with memory.watch_memory(torch.device("cpu")) as watch:
        watch.check_weights(2**60, "m")
        plan = planned(AutoModelForCausalLM.from_config(tiny.configuration("llama")))
        watch.expect(replace(plan, room=0))
    assert watch.plan is None
