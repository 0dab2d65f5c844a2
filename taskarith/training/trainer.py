"""transformers' Trainer with resumable checkpoints and a loss with retain sets."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from taskarith.checkpoints.team import wait_for_all
from taskarith.errors import CheckpointError, UsageError
from taskarith.models.language import has_token_loss
from taskarith.models.memory import is_out_of_memory
from taskarith.progress import Listener
from taskarith.training.callbacks import EpochCallback, ProgressCallback, UntilLossCallback
from taskarith.training.dealing import Dealt, collate_dealt, deal
from taskarith.training.engines import rounds_loss, told_bf16
from taskarith.training.examples import IGNORED, Collator, Example
from taskarith.training.grouping import LengthOrder
from taskarith.training.result import DATA_LOSS
from taskarith.training.resume import finish_checkpoint
from taskarith.training.settings import TrainingSettings
from taskarith.training.throughput import peak_share
from taskarith.training.token_loss import token_losses
from taskarith.training.trained import load_trained, save_trained
from taskarith.training.validation import Validation

__all__ = ["ResumableTrainer", "RetainTrainer", "make_arguments", "make_trainer"]

_TORCH_WRITES = re.compile("inline_container|PyTorchFileWriter|PytorchStreamWriter|Parent directory")
"""Errors of torch, not ``OSError``, when it cannot write a file."""


class ResumableTrainer(Trainer):
    """A Trainer whose checkpoints store the trained weights by their names in memory, and load completely or fail."""

    validation: Validation | None = None
    order: LengthOrder | None = None
    """The order of rows; None for a random one."""
    has_begun = False
    """Whether the whole checkpoint was read, and used for a step."""
    is_finished = False
    """Whether the training has ended, perhaps before it was resumed, so that only publishing is left."""
    _batches = 0

    def __init__(self, train_dataset: Sequence[Any], data_collator: Any, **options: Any) -> None:
        dealt: Any = Dealt(train_dataset)
        super().__init__(train_dataset=dealt, data_collator=collate_dealt(data_collator, train_dataset), **options)

    def get_train_dataloader(self) -> DataLoader:
        """Deal each row of an epoch to one process, once."""
        return deal(super().get_train_dataloader(), self.args.world_size)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Return the batches of the next step: none where a finished training is resumed."""
        if self.is_finished or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        if (inputs["labels"] == IGNORED).all():  # a process without rows
            inputs = inputs | {"attention_mask": torch.zeros_like(inputs["labels"])}
        super()._track_num_input_tokens(inputs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if state_dict is not None:  # FSDP and DeepSpeed write their own checkpoints as well
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            model: Any = self.model
            save_trained(model, Path(str(output_dir or self.args.output_dir)))

    def _save_checkpoint(self, *arguments: Any, **options: Any) -> None:
        self.has_begun = True
        try:
            super()._save_checkpoint(*arguments, **options)
        except RuntimeError as error:
            if not _TORCH_WRITES.search(str(error)):
                raise
            reason = str(error).partition("\n")[0]
            raise OSError(f"torch could not write it, perhaps because the disk is full ({reason})") from error
        wait_for_all()  # each process writes its own state
        if self.args.should_save:
            folder = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            finish_checkpoint(folder, is_last=self.is_finished)
        wait_for_all()  # then all of them find it

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """Measure the validation data, over all tokens: transformers would take the mean of the batches' means."""
        return super().evaluate(*arguments, **options) if self.validation is None else self.validation.evaluate(self)

    def _get_train_sampler(self, *arguments: Any, **options: Any) -> Any:
        return self.order or super()._get_train_sampler(*arguments, **options)

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """Count batches, and train as transformers does."""
        self._batches += 1
        self.has_begun = self.has_begun or self._batches > self.args.gradient_accumulation_steps
        return super().training_step(*arguments, **options)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        folder, process = Path(resume_from_checkpoint), self.args.process_index
        random_state = f"rng_state_{process}.pth" if self.args.world_size > 1 else "rng_state.pth"
        for name in ("optimizer.pt", "scheduler.pt", random_state):  # transformers would silently reset them
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"the checkpoint {folder} does not contain {name}",
                    "Resume with the number of processes of the run, or start over with --overwrite.",
                )
        trained: Any = self.model if model is None else model
        load_trained(trained, folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            if is_out_of_memory(error):
                raise
            raise CheckpointError(
                f"cannot read the optimizer's state in {checkpoint}: {str(error).partition(chr(10))[0]}",
                "Start over with --overwrite.",
            ) from error


class RetainTrainer(ResumableTrainer):
    """A Trainer whose loss is the mean over tokens of ``weight * token loss``.

    loss = (1 / N) * sum_i w_i * (-log p(token_i)), with N the number of learned tokens of all data sets in the whole
    step (all accumulated batches of all processes), w = 1 for the data and the retain weight for the retain set. A
    weight of 1 equals training on both sets joined; with 0 the retain set has no gradient. The mean loss of the data
    alone is also logged, for each step that contains some.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.model_accepts_loss_kwargs = True  # count the tokens of the whole step, whatever the model's loss does
        self._of_data = torch.zeros(2, dtype=torch.float64)  # sum and number of the step's token losses

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return this batch's share of the step's loss; shares add up to the loss."""
        labels = inputs["labels"][:, 1:]
        if "position_ids" in inputs:  # they tell transformers what is packed, but only without a mask and a cache
            outputs = model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False)
        else:
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        losses = token_losses(outputs.logits, inputs["labels"])
        is_data = (labels != IGNORED) & ~inputs["retained"][:, 1:]
        self._of_data += torch.stack([losses.detach()[is_data].sum(), is_data.sum()]).cpu()
        total = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = (losses * inputs["weights"][:, 1:]).sum() / total
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = (
                loss * self.accelerator.num_processes
            )  # gradients are averaged over processes, but `total` counts all
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step, including the loss of the data."""
        if "loss" in logs:
            here = self._of_data.to(self.args.device, torch.float32)  # not all devices have float64
            total, count = self.accelerator.reduce(here, "sum").tolist()
            if count:
                logs[DATA_LOSS] = total / count
            self._of_data.zero_()
        super().log(logs, start_time)


def make_arguments(settings: TrainingSettings, folder: Path, device: torch.device, *, bf16: bool) -> TrainingArguments:
    """Translate settings into transformers' arguments.

    :param settings: Training settings.
    :param folder: Folder of the Trainer's checkpoints.
    :param device: Device to train on; under a launcher each process has its own.
    :param bf16: Compute in bfloat16 under autocast.
    """
    known = TrainingArguments.__dataclass_fields__  # transformers 5.2x renamed gradient_checkpointing
    checkpointing = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in known)
    options: dict[str, Any] = {checkpointing: settings.gradient_checkpointing, "save_strategy": "no"}
    if settings.gradient_checkpointing:
        options[f"{checkpointing}_kwargs"] = {"use_reentrant": False}
    if settings.save_steps is not None:
        options |= {"save_strategy": "steps", "save_steps": settings.save_steps}
    arguments = TrainingArguments(
        output_dir=str(folder),
        run_name=folder.name.strip(".").removesuffix(".training"),
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=told_bf16(bf16=bf16),
        seed=settings.seed,
        use_cpu=device.type == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        disable_tqdm=True,
        report_to=list(settings.report_to) or "none",
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        **options,
    )
    if device.type == "cuda":
        _use_one_gpu(arguments, device)
    elif arguments.device == torch.device("cpu", 0):  # of several processes; torch 2.6 loads no state to that
        arguments.__dict__["_setup_devices"] = device
    return arguments


def _use_one_gpu(arguments: TrainingArguments, device: torch.device) -> None:
    """Train on the given GPU; transformers would use the first, or all in one process."""
    if arguments.world_size > 1:
        if device.index is not None:
            raise UsageError(
                f"--device {device} names one GPU, but there are {arguments.world_size} processes",
                "Leave out the number: each process gets its own GPU.",
            )
        return
    arguments._n_gpu = 1
    if device.index is not None:
        torch.cuda.set_device(device)
        arguments.__dict__["_setup_devices"] = device  # a cached property without a setter


def make_trainer(
    model: PreTrainedModel | PeftModel,
    arguments: TrainingArguments,
    examples: Sequence[Example],
    pad_id: int,
    settings: TrainingSettings,
    listener: Listener,
    validation: Validation | None = None,
) -> ResumableTrainer:
    """Make a Trainer that reports only to the listener, and weights the loss of retain sets.

    It also calculates the loss itself if rows are packed, the model's own loss differs or would be rounded, or the loss
    of the data is needed separately.

    :param settings: How batches are made, and when to stop.
    :param validation: Held-out rows, if any.
    """
    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    weighted = settings.packing or any(example.weight != 1.0 for example in examples)
    weighted = weighted or not has_token_loss(plain) or rounds_loss(arguments)
    share = peak_share(plain, arguments, [len(example.sample.input_ids) for example in examples])
    callbacks: list[TrainerCallback] = [ProgressCallback(listener, peak_share=share)]
    if settings.until_loss is not None:
        weighted = weighted or any(example.retained for example in examples)
        callbacks.append(UntilLossCallback(settings.until_loss))
    trainer = (RetainTrainer if weighted else ResumableTrainer)(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=Collator(pad_id, weighted=weighted, packing=settings.packing),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    if validation is not None:
        trainer.validation = validation
        validation.prepare(trainer)
    if settings.group_by_length:
        rows = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        trainer.order = LengthOrder([len(one.sample.input_ids) for one in examples], rows, arguments.seed)
        trainer.add_callback(EpochCallback(trainer.order.begin))
    return trainer
