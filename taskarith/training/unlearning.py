"""The Trainer of the objectives that make a model forget, and what it needs to know of the base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments

from taskarith.checkpoints.team import wait_for_all
from taskarith.models.load import Base
from taskarith.progress import Listener
from taskarith.training.callbacks import BeginCallback, EpochCallback, ProgressCallback
from taskarith.training.engines import callable_model
from taskarith.training.examples import IGNORED, Example
from taskarith.training.objectives import (
    ascent,
    control_vector,
    divergence,
    likelihood,
    npo,
    simnpo,
    state_distance,
)
from taskarith.training.pairs import Pairs, RowCollator, epochs_of, partners
from taskarith.training.readings import Readings, read_rows, select
from taskarith.training.reference import (
    Reference,
    StoredReference,
    adapter_off,
    check_reference_space,
    store_rows,
)
from taskarith.training.resume import write_digests
from taskarith.training.settings import TrainingSettings
from taskarith.training.trainer import RetainTrainer

__all__ = ["UnlearningTrainer", "check_reference", "make_unlearner"]

_FOLDER = "base"


class UnlearningTrainer(RetainTrainer):
    """A Trainer whose loss is forget term + retain weight * retain term.

    Each term is a sum over the rows of the whole step (all accumulated batches of all processes), divided by the number
    of their tokens or rows: see ``objectives``. The mean loss of the data, which is to rise, is logged for each step.

    :param settings: Objective and its parameters.
    :param layer: Whose hidden states the objective needs, if any.
    :param options: Of the Trainer.
    """

    reference: Reference | None = None

    def __init__(self, settings: TrainingSettings, layer: torch.nn.Module | None, **options: Any) -> None:
        super().__init__(**options)
        self._settings, self._layer = settings, layer
        self._counts = torch.ones(2, 2)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Count tokens and rows of the whole step, those to be forgotten and those to be kept apart."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.zeros(2, 2)
        for batch in batches:
            tokens = (batch["labels"][:, 1:] != IGNORED).sum(1)
            for part, side in enumerate((~batch["retained"], batch["retained"])):
                counts[part] += torch.stack([tokens[side].sum(), (tokens[side] > 0).sum()]).cpu()
        self._counts = self.accelerator.reduce(counts.to(self.args.device), "sum")
        return batches, items

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return this batch's share of the step's loss: the shares of all batches add up to it."""
        del num_items_in_batch
        retained = inputs["retained"]
        base = None
        if self.reference is not None:
            compared = ~retained if self._settings.needs.reference == "sequences" else retained
            base = self.reference(model, select(inputs, compared))
        read = read_rows(model, inputs, self._layer)
        forgotten, kept = read.of(~retained), read.of(retained)
        self._of_data += forgotten.loss_and_count()
        loss = (self._forget_values(forgotten, base) * forgotten.is_learned).sum()
        if retained.any():
            values = (self._retain_values(kept, base) * kept.is_learned).sum()
            loss = loss + self._settings.retain_weight * values
        loss = loss * self.accelerator.num_processes  # gradients are averaged over processes, the counts are of all
        return (loss, None) if return_outputs else loss

    def _forget_values(self, read: Readings, base: torch.Tensor | None) -> torch.Tensor:
        """Return each row's share of the forget term."""
        tokens, rows = self._counts[0]
        beta = self._settings.temperature or 0.0
        if self._settings.objective == "npo" and base is not None:
            return npo(read.log_p, read.learned, base, beta) / rows
        if self._settings.objective == "simnpo":
            return simnpo(read.log_p, read.learned, beta) / rows
        if self._settings.objective == "rmu":
            target = control_vector(read.states.shape[2], self._settings.steering, self._settings.seed)
            return state_distance(read.states, target.to(read.states.device), read.learned) / rows
        return ascent(read.log_p, read.learned) / tokens

    def _retain_values(self, read: Readings, base: torch.Tensor | None) -> torch.Tensor:
        """Return each row's share of the retain term."""
        tokens, rows = self._counts[1]
        if self._settings.objective == "kl" and base is not None:
            return divergence(read.logits.log_softmax(2), base, read.learned) / tokens
        if self._settings.objective == "rmu" and base is not None:
            return state_distance(read.states, base, read.learned) / rows
        return likelihood(read.log_p, read.learned) / tokens


def make_unlearner(
    model: PreTrainedModel | PeftModel,
    arguments: TrainingArguments,
    examples: Sequence[Example],
    pad_id: int,
    settings: TrainingSettings,
    layer: torch.nn.Module | None,
    listener: Listener,
    *,
    resumed: bool,
) -> UnlearningTrainer:
    """Make a Trainer that is silent but for the listener, and first measures the base if its numbers are kept on disk.

    :param model: The base, or a PEFT model of it, before the training.
    :param examples: Rows to be forgotten, and retained ones.
    :param layer: Whose hidden states the objective needs, if any.
    :param resumed: The training goes on from a checkpoint, and the numbers of the base are there.
    """
    pairs, collate, kind = _pairs(examples, settings), RowCollator(pad_id), settings.needs.reference
    folder = Path(str(arguments.output_dir)) / _FOLDER

    def begin() -> None:
        if kind and settings.lora:
            trainer.reference = adapter_off(kind, layer, trainer.accelerator.unwrap_model)
        elif kind:
            if not resumed:
                _measure_base(trainer, pairs, collate, layer, folder, listener)
            trainer.reference = StoredReference(folder)

    trainer = UnlearningTrainer(
        settings,
        layer,
        model=model,
        args=arguments,
        train_dataset=pairs,
        data_collator=collate,
        callbacks=[
            BeginCallback(begin),
            ProgressCallback(listener, settings.objective),
            EpochCallback(pairs.begin),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _pairs(examples: Sequence[Example], settings: TrainingSettings) -> Pairs:
    forgotten = [example for example in examples if not example.retained]
    return Pairs(forgotten, [example for example in examples if example.retained], settings.seed)


def _compared_rows(pairs: Pairs, arguments: TrainingArguments, settings: TrainingSettings) -> list[int]:
    """Return the numbers of the rows that the base is asked for: of retain rows those that will be drawn."""
    count = len(pairs.forgotten)
    if settings.needs.reference == "sequences":
        return list(range(count))
    epochs = range(epochs_of(arguments, count))
    return sorted({row for epoch in epochs for row in partners(count, len(pairs.retained), settings.seed, epoch)})


def check_reference(
    examples: Sequence[Example],
    settings: TrainingSettings,
    arguments: TrainingArguments,
    base: Base,
    target: Path,
    nbytes: int,
) -> None:
    """Refuse a training whose numbers of the base would not fit the disk, before the model is loaded.

    :param target: The output.
    :param nbytes: Of the model that will be published.
    :raises OutputError: They would not.
    """
    kind = settings.needs.reference
    if settings.lora or not kind:
        return
    pairs, text = _pairs(examples, settings), base.config.get_text_config()
    if kind == "sequences":
        check_reference_space(target, "log-probabilities of the base", len(pairs), nbytes)
        return
    samples = [pairs.retained[row].sample for row in _compared_rows(pairs, arguments, settings)]
    tokens = sum(len(sample.input_ids) - max(sample.prompt_length, 1) for sample in samples)
    if kind == "vocabulary":
        what = f"the base's log-probabilities of {tokens:,} retain tokens"
        check_reference_space(target, what, tokens * getattr(text, "vocab_size", 1), nbytes)
    else:
        what = f"the base's hidden states of {tokens:,} retain tokens"
        check_reference_space(target, what, tokens * getattr(text, "hidden_size", 1), nbytes)


def _measure_base(
    trainer: UnlearningTrainer,
    pairs: Pairs,
    collate: RowCollator,
    layer: torch.nn.Module | None,
    folder: Path,
    listener: Listener,
) -> None:
    """Measure the rows, each process its share of them, and wait for all."""
    listener.note("measuring the base, which the objective compares with")
    arguments, kind = trainer.args, trainer._settings.needs.reference
    side = pairs.forgotten if kind == "sequences" else pairs.retained
    rows, rank = _compared_rows(pairs, arguments, trainer._settings), arguments.process_index
    size = arguments.per_device_train_batch_size

    def batches() -> Iterator[Any]:
        for start in range(0, len(rows), arguments.world_size * size):
            if trainer.is_world_process_zero():
                listener.progress("measuring the base", start, len(rows))
            # all processes run the model equally often
            mine = rows[start + rank * size : start + (rank + 1) * size] or rows[:1]
            yield trainer._prepare_inputs(collate([[(row, side[row])] for row in mine]))
        if trainer.is_world_process_zero():
            listener.progress("measuring the base", len(rows), len(rows))

    with trainer.accelerator.autocast():
        store_rows(callable_model(trainer), batches(), kind, layer, folder / str(rank))
    wait_for_all()
    if trainer.is_world_process_zero():
        write_digests(folder)
    wait_for_all()
