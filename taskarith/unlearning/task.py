"""What is to be forgotten, by which means: the calls of other verbs that do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskarith.evaluation.measurement import Measurement
from taskarith.relations.inputs import INPUTS
from taskarith.unlearning.call import Call

__all__ = ["ALPHAS", "BUDGET", "KEEP", "KIND", "MEASUREMENT", "QUICK_ALPHAS", "QUICK_MEASUREMENT", "Learning", "Task"]

ALPHAS = (0.0, 0.25, 0.5, 0.75, 0.875, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
"""From what a vector of the base needs (0.85) to four times that: one learned on top of the model needs up to 2.2, if
its steps are large (`benchmarks/RESULTS-ways.md`)."""

QUICK_ALPHAS = (0.0, 0.5, 1.0, 2.0)

MEASUREMENT = Measurement(block_size=64, continuation_tokens=32, lens=8)
"""Short blocks: intervals need many."""

QUICK_MEASUREMENT = Measurement(block_size=64, prompts=6, continuation_tokens=32, lens=4)

KEEP = 0.4
"""Share of the retain set's vector that is added: least cost at full forgetting in `examples/forgetting`."""

KIND = "unlearning"
"""Of a run, in its record."""

BUDGET = 0.1
"""Nats a token that kept texts may lose, where nothing says how well a model that never knew the text knows it."""

_QUICK_ATTACKS: Mapping[str, Any] = {
    "relearn_steps": (4,),
    "relearn_epochs": 0,
    "bits": (4,),
    "prefixes": (16,),
    "draws": 0,
}


_QUICK_INPUTS = 8
"""Blocks of each text on which vectors are compared."""


@dataclass(frozen=True)
class Learning:
    """How a text is learned for its vector.

    :param lora: By an adapter rather than by all weights.
    :param learning_rate: Peak learning rate.
    :param num_train_epochs: Passes over the text; None for as many as ``until_loss`` needs.
    :param until_loss: Loss at which learning ends; None for a fixed number of passes.
    :param batch_size: Blocks a step.
    :param block_size: Tokens a block; None for as many as ``finetune`` takes.
    """

    lora: bool
    learning_rate: float
    num_train_epochs: float | None
    until_loss: float | None
    batch_size: int
    block_size: int | None = None

    def options(self) -> dict[str, Any]:
        """Return the options of ``finetune``."""
        return {
            "lora": self.lora,
            "learning_rate": self.learning_rate,
            "num_train_epochs": self.num_train_epochs,
            "until_loss": self.until_loss,
            "per_device_train_batch_size": self.batch_size,
            "block_size": self.block_size,
        }


@dataclass(frozen=True)
class Task:
    """What is to be forgotten, and how.

    :param model: The model that knows.
    :param forget: The text to forget.
    :param retain: Texts to keep.
    :param folder: Of the run.
    :param holdout: Text of the same kind as the one to forget that the model never saw.
    :param reference: A model that never saw the text to forget.
    :param base: The model from which ``model`` was made, to learn the vectors on; None to learn them on ``model``.
    :param learning: How texts are learned.
    :param keep: Share of the retain set's vector to add; 0 for none.
    :param budget: Rise of the kept texts' loss to allow, in nats; None for another rule.
    :param alphas: Coefficients to try.
    :param quick: Attack with a few steps only.
    :param measurement: How texts are measured.
    :param device: Device of training and measuring.
    :param trust_remote_code: Run code that comes with a model.
    """

    model: str
    forget: str
    retain: tuple[str, ...]
    folder: Path
    holdout: str | None
    reference: str | None
    base: str | None
    learning: Learning
    keep: float
    budget: float | None
    alphas: tuple[float, ...]
    quick: bool
    measurement: Measurement = field(default=MEASUREMENT)
    device: str = "auto"
    trust_remote_code: bool = False

    @property
    def data(self) -> dict[str, str]:
        """The texts to forget and to keep, by name."""
        names = ["retain", *(f"retain-{number}" for number in range(2, len(self.retain) + 1))]
        return {"forget": self.forget, **dict(zip(names, self.retain, strict=True))}

    @property
    def lessons(self) -> dict[str, tuple[str, ...]]:
        """The texts of each vector that the edit needs, by its name."""
        return {"forget": (self.forget,), **({"retain": self.retain} if self.keep else {})}

    def vector(self, name: str) -> Path:
        """Return the vector of a name: a file, or with LoRA an adapter."""
        return self.folder / (name if self.learning.lora else f"{name}.safetensors")

    def learned(self, name: str) -> str:
        """Return the name of what is learned for a vector, which with LoRA is the vector."""
        return name if self.learning.lora else f"learned-{name}"

    @property
    def edit(self) -> dict[str, Any]:
        """The vectors, as options."""
        added = {"add": [f"{self.vector('retain')}:{self.keep:g}"]} if self.keep else {}
        return {"negate": [str(self.vector("forget"))], **added}

    def measure(self, models: tuple[str, ...], name: str) -> Call:
        """Return the call that measures models on all texts; their layers only at the end, since it takes time."""
        data = {**self.data, **({"holdout": self.holdout} if self.holdout else {})}
        lens = self.measurement.lens if name == "after" else 0
        options = {"data": data, "reference": self.reference, "lens": lens or None, **self._measured}
        return Call("eval", models, self.folder / name, options)

    def learn(self, texts: Sequence[str], output: str) -> Call:
        """Return the call that learns texts.

        :param output: Name of the fine-tune or adapter.
        """
        options: dict[str, Any] = {"data": [*texts], **self.learning.options(), **self._shared}
        options["seed"] = None if self.measurement.seed == MEASUREMENT.seed else self.measurement.seed
        return Call("finetune", (self.base or self.model,), self.folder / output, options)

    def extract(self, name: str) -> Call:
        """Return the call that takes the vector out of what was learned."""
        models = (self.base or self.model, str(self.folder / f"learned-{name}"))
        return Call("extract", models, self.vector(name))

    def relate(self) -> Call:
        """Return the call that tells how the two vectors relate, each on its text; of several texts to keep the first.

        It is of use where there are two: ``keep`` is not 0.
        """
        data, size = {"forget": self.forget, "retain": self.retain[0]}, self.measurement.block_size
        options: dict[str, Any] = {"data": data, "block_size": None if size == INPUTS.block_size else size}
        options["inputs"] = _QUICK_INPUTS if self.quick else None
        vectors = (str(self.vector("forget")), str(self.vector("retain")))
        return Call("relate", vectors, self.folder / "relation", {**options, **self._shared})

    def sweep(self, target: float | None) -> Call:
        """Return the call that chooses alpha.

        :param target: Loss to reach, if no model and no budget sets it.
        """
        rule: dict[str, Any] = {"budget": self.budget} if self.budget is not None else {"target": target}
        options = {**self.edit, "alphas": self.alphas, "reference": self.reference, **rule, "data": self.data}
        return Call("sweep", (self.model,), self.folder / "sweep", {**options, **self._measured})

    def apply(self, alpha: float) -> Call:
        """Return the call that writes the edited model."""
        return Call("apply", (self.model,), self.folder / "edited", {**self.edit, "alpha": alpha})

    def attack(self) -> Call:
        """Return the call that attacks the edited model."""
        options = {"forget": self.forget, "before": self.model, "reference": self.reference, **self._measured}
        options |= _QUICK_ATTACKS if self.quick else {}
        return Call("attack", (str(self.folder / "edited"),), self.folder / "attack", options)

    @property
    def _measured(self) -> dict[str, Any]:
        """Options of measuring that are not the defaults of the other verbs."""
        default, values = Measurement(), self.measurement
        names = ("block_size", "prompts", "prompt_tokens", "continuation_tokens", "batch_size", "seed")
        options = {name: getattr(values, name) for name in names if getattr(values, name) != getattr(default, name)}
        return {**options, **self._shared}

    @property
    def _shared(self) -> dict[str, Any]:
        """Options of all that run a model."""
        return {
            "apply_chat_template": self.measurement.apply_chat_template,
            "system_prompt": self.measurement.system_prompt or None,
            "device": None if self.device == "auto" else self.device,
            "trust_remote_code": self.trust_remote_code,
        }
