"""What memory a training will need, estimated before its first step, and settings that need less."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from peft import PeftModel
from transformers import PreTrainedModel, TrainingArguments
from transformers.pytorch_utils import Conv1D

from taskarith.errors import TaskarithError
from taskarith.models.language import names_outside
from taskarith.models.memory import available_memory, is_out_of_memory
from taskarith.progress import Listener
from taskarith.training.examples import Example
from taskarith.training.settings import LORA_RANK, TrainingSettings

__all__ = ["MemoryPlan", "MemoryWatch", "plan_memory", "watch_memory"]

_INSIDE = 4.8  # bytes for each input and output of linear layers, what norms, attention and activations keep included
_INSIDE_BF16 = 3.4  # more than half: the residual stream and what norms keep stay float32 under autocast
_LOGITS = 3  # the logits, their log-softmax and its gradient
_NEARLY = 0.8  # of an estimate that turned out to be too low


@dataclass(frozen=True)
class MemoryPlan:
    """The sizes that decide what memory a training needs; all bytes that come of them are estimates.

    :param settings: Of the training.
    :param weights: Bytes of the weights.
    :param trained: Number of trained weights.
    :param linear: Inputs and outputs of all linear layers but the head, for one token.
    :param layers: Decoder layers.
    :param hidden: Size of a hidden state.
    :param vocabulary: Size of the vocabulary.
    :param rows: All rows that there are.
    :param row: Tokens of the longest of them.
    :param bf16: Whether activations are in bfloat16.
    :param can_checkpoint: Whether the model can calculate activations again.
    :param processes: Processes with all weights each; several keep gradients twice, to exchange them.
    :param room: Bytes that there are for all of it; None if that is not known.
    """

    settings: TrainingSettings
    weights: int
    trained: int
    linear: int
    layers: int
    hidden: int
    vocabulary: int
    rows: int
    row: int
    bf16: bool
    can_checkpoint: bool
    processes: int
    room: int | None

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of weights, gradients, AdamW's two moments (Kingma & Ba 2015) and activations."""
        trained = 4 * self.trained
        gradients = trained * (2 if self.processes > 1 else 1)
        return {
            "weights": self.weights,
            "gradients": gradients,
            "AdamW": 2 * trained,
            "activations": self._activations(),
        }

    @property
    def total(self) -> int:
        """Bytes of all of them."""
        return sum(self.parts.values())

    def _activations(self) -> int:
        """Return the bytes of what the forward pass keeps for the backward pass."""
        tokens = min(self.settings.per_device_train_batch_size, self.rows) * self.row
        inside = (_INSIDE_BF16 if self.bf16 else _INSIDE) * self.linear
        if self.settings.gradient_checkpointing:  # the inputs of all layers, and one layer whole
            inside = inside / self.layers + 4 * self.layers * self.hidden
        casts = self.weights // 2 if self.bf16 else 0  # autocast keeps weights in bfloat16 until the backward pass
        return int(tokens * (inside + _LOGITS * 4 * self.vocabulary)) + casts

    def check(self) -> None:
        """Refuse a training that is too large at any batch size.

        :raises TaskarithError: Weights, gradients and the optimizer's states are more than there is room for.
        """
        states = self.total - self.parts["activations"]
        if self.room is not None and states > self.room:
            raise TaskarithError(
                f"the weights, gradients and AdamW's states of this training take an estimated {_size(states)}, and "
                f"there are {_size(self.room)}",
                self.advice(self.room),
            )

    def report(self, listener: Listener) -> None:
        """Note the estimate, and what would need less if that is too much."""
        parts = ", ".join(f"{name} {_size(nbytes)}" for name, nbytes in self.parts.items())
        there = "" if self.room is None else f", and there are {_size(self.room)}"
        listener.note(f"memory, by estimate: {_size(self.total)} ({parts}){there}")
        if self.room is not None and self.total > self.room:
            listener.note(f"this may run out of memory. {self.advice(self.room)}")

    def advice(self, room: float) -> str:
        """Name the settings, nearest to those given, whose estimate is at most so many bytes."""
        plan = next((plan for plan in self._smaller() if plan.total <= room), None)
        if plan is None:
            return "Use a smaller model or --block-size, or a device with more memory."
        return f"By estimate {_size(plan.total)} are enough with {_changes(self.settings, plan.settings)}."

    def _smaller(self) -> Iterator[MemoryPlan]:
        """Yield plans of the same training, in smaller batches, then of an adapter."""
        given = self.settings
        choices = [True] if given.gradient_checkpointing else [False, True] if self.can_checkpoint else [False]
        adapter = replace(self, settings=replace(given, lora=True), trained=LORA_RANK * self.linear)
        for kind in [self] if given.lora else [self, adapter]:
            for checkpointing in choices:
                for parts in range(1, given.per_device_train_batch_size + 1):
                    if given.per_device_train_batch_size % parts == 0:
                        settings = replace(
                            kind.settings,
                            per_device_train_batch_size=given.per_device_train_batch_size // parts,
                            gradient_accumulation_steps=given.gradient_accumulation_steps * parts,
                            gradient_checkpointing=checkpointing,
                        )
                        yield replace(kind, settings=settings)


def plan_memory(
    model: PreTrainedModel | PeftModel,
    settings: TrainingSettings,
    arguments: TrainingArguments,
    examples: Sequence[Example],
    room: int | None,
) -> MemoryPlan:
    """Gather the sizes of a training.

    :param model: Ready to train.
    :param settings: Of the training.
    :param arguments: Precision and number of processes.
    :param examples: What is trained on.
    :param room: Bytes that there are for all of it, the weights included; None if that is not known.
    """
    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = plain.config.get_text_config()
    head, outside = plain.get_output_embeddings(), set(names_outside(plain))
    linear = 0
    for name, module in plain.named_modules():
        if module is not head and "lora_" not in name and f"{name}.weight" not in outside:
            linear += _width(module)
    experts = [weight for weight in model.parameters() if weight.dim() == 3]  # one product for each chosen expert
    linear += sum(sum(weight.shape[1:]) for weight in experts) * getattr(config, "num_experts_per_tok", 1)
    return MemoryPlan(
        settings=settings,
        weights=sum(weight.nbytes for weight in model.parameters()),
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        linear=linear,
        layers=getattr(config, "num_hidden_layers", 1),
        hidden=getattr(config, "hidden_size", 0),
        vocabulary=getattr(config, "vocab_size", 0),
        rows=len(examples),
        row=max(len(example.sample.input_ids) for example in examples),
        bf16=arguments.mixed_precision == "bf16",
        can_checkpoint=plain.supports_gradient_checkpointing,
        processes=arguments.world_size,
        room=room,
    )


@dataclass
class MemoryWatch:
    """What is known of the memory of a training that is about to start.

    :param room: Bytes that there are for all of it; None if that is not known.
    :param is_sharded: FSDP or DeepSpeed decides which process has what: nothing is estimated.
    :param plan: What it needs, once its model is loaded.
    """

    room: int | None
    is_sharded: bool = False
    plan: MemoryPlan | None = None

    def check_weights(self, nbytes: int, name: str) -> None:
        """Refuse to load weights that are larger than the memory.

        :param nbytes: Of the weights in memory.
        :param name: Of the model.
        :raises TaskarithError: They are.
        """
        if self.room is not None and not self.is_sharded and nbytes > self.room:
            raise TaskarithError(
                f"the weights of {name} take {_size(nbytes)}, and there are {_size(self.room)}",
                "Use a smaller model, or a device with more memory.",
            )

    def expect(self, plan: MemoryPlan) -> None:
        """Refuse what cannot fit; see ``MemoryPlan.check``."""
        if not self.is_sharded:
            self.plan = plan
            plan.check()

    def report(self, listener: Listener) -> None:
        """Note what is needed, if it is known."""
        if self.plan is not None:
            self.plan.report(listener)


@contextmanager
def watch_memory(device: torch.device) -> Generator[MemoryWatch]:
    """Measure the room for a training, and turn errors of memory into one that names settings that need less.

    :param device: Where the training will be.
    :raises TaskarithError: Memory ran out.
    """
    is_sharded = any(parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED"))
    watch = MemoryWatch(available_memory(device), is_sharded)
    try:
        yield watch
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        words = str(error).partition("\n")[0].rpartition("DefaultCPUAllocator: ")[2]  # where in its sources is before
        reason = words.partition(". ")[0] or type(error).__name__
        hint = "Use a smaller model, or a device with more memory."
        if watch.plan is not None:
            hint = watch.plan.advice(min(_NEARLY * watch.plan.total, watch.room or math.inf))
        raise TaskarithError(f"out of memory while training: {reason}", hint) from error


def _width(module: torch.nn.Module) -> int:
    """Return inputs plus outputs of a linear layer, and 0 for any other module."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features + module.out_features
    return module.nx + module.nf if isinstance(module, Conv1D) else 0


def _changes(given: TrainingSettings, smaller: TrainingSettings) -> str:
    """Return the options that lead from some settings to smaller ones."""
    options = []
    if smaller.per_device_train_batch_size != given.per_device_train_batch_size:
        options.append(f"--per-device-train-batch-size {smaller.per_device_train_batch_size}")
        options.append(f"--gradient-accumulation-steps {smaller.gradient_accumulation_steps}")
    if smaller.gradient_checkpointing and not given.gradient_checkpointing:
        options.append("--gradient-checkpointing")
    if smaller.lora and not given.lora:
        options.append("--lora")
    return " ".join(options)


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
