"""What a training starts from, checked before any weight is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from taskarith.calls import listed
from taskarith.checkpoints.header import ITEM_SIZES
from taskarith.checkpoints.publish import check_target
from taskarith.checkpoints.rooms import settle
from taskarith.checkpoints.targets import check_apart, check_space, is_occupied
from taskarith.checkpoints.team import check_launch
from taskarith.data.load import check_form, data_paths, load_data
from taskarith.errors import OutputError, UsageError
from taskarith.models.device import autocast_choice, training_device
from taskarith.models.load import Base, open_base
from taskarith.progress import Listener
from taskarith.training.examples import Example, make_examples
from taskarith.training.hidden_states import with_layer
from taskarith.training.holdout import check_validation, hold_out
from taskarith.training.objective_table import check_retain
from taskarith.training.quantised import check_quantised
from taskarith.training.resume import check_leftover, working_folder
from taskarith.training.settings import TrainingSettings
from taskarith.training.trainer import make_arguments
from taskarith.training.unlearning import check_reference

__all__ = ["Prepared", "nbytes_of_adapter", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """All of a training but the weights.

    :param target: The folder to publish.
    :param settings: As given, with what the model decides.
    :param arguments: The same for transformers.
    :param base: The model to train.
    :param examples: What is trained on.
    :param held_out: What is validated on; None for nothing.
    :param record: Of the data, for provenance.
    :param nbytes: Of the output at least; 0 for an adapter.
    :param autocast: Whether to calculate in bfloat16.
    :param reason: Why so.
    """

    target: Path
    settings: TrainingSettings
    arguments: TrainingArguments
    base: Base
    examples: list[Example]
    held_out: Any
    record: dict[str, Any]
    nbytes: int
    autocast: bool
    reason: str


def prepare(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    retain: str | Path | Sequence[str | Path],
    validation: str | Path | Sequence[str | Path],
    overwrite: bool,
    settings: TrainingSettings,
    listener: Listener,
) -> Prepared:
    """Read and check all of a training but the weights; parameters and errors are those of ``finetune``."""
    name, target = str(model), Path(output_dir)
    specs = [listed(one) for one in (data, retain, validation)]
    check_launch()
    check_validation(settings, specs[2])
    _check_call(settings, specs[0], specs[1])
    _check_output(target, settings, overwrite, [name, *data_paths([spec for some in specs for spec in some])])
    check_leftover(target, resume=settings.resume, overwrite=overwrite, listener=listener)
    device = training_device(settings.device)
    autocast, reason = autocast_choice(device, settings.bf16)
    arguments = make_arguments(settings, working_folder(target), device, bf16=autocast)
    check_quantised(settings, arguments)
    learned, retained, held = ([load_data(spec, settings.form) for spec in some] for some in specs)
    check_form(settings.form, [*learned, *retained, *held])
    with arguments.main_process_first(local=False, desc="finding the model"):
        base = open_base(name, trust_remote_code=settings.trust_remote_code, listener=listener)
        check_apart(target, [base.origin.path])
        settings = with_layer(settings, base.config, base.origin.name)
        nbytes = 0 if settings.lora else _nbytes(base, settings.dtype)
        check_space(target, nbytes)
    examples, record = make_examples(base, learned, retained, settings, listener)
    examples, held_out = hold_out(base, held, examples, settings, record, listener)
    check_reference(examples, settings, arguments, base, target, nbytes)
    record["processes"] = arguments.world_size
    return Prepared(target, settings, arguments, base, examples, held_out, record, nbytes, autocast, reason)


def _check_call(settings: TrainingSettings, data: Sequence[str], retain: Sequence[str]) -> None:
    if not data:
        raise UsageError("there is no data to train on", "Give a data set: --data forget.txt")
    check_retain(settings.objective, bool(retain))
    if settings.retain_weight != 1.0 and not retain:
        raise UsageError("--retain-weight is set, but there is no retain set", "Give one with --retain FILE.")
    known = get_available_reporting_integrations()
    for name in settings.report_to:
        if name not in known:
            raise UsageError(
                f"--report-to {name} is not available here",
                f"Install its package; available: {', '.join(known) or 'none'}.",
            )


def _check_output(target: Path, settings: TrainingSettings, overwrite: bool, inputs: Sequence[str]) -> None:
    if settings.resume and not overwrite and is_occupied(settle(target)):
        raise OutputError(
            f"{target} already exists, so there is nothing to resume",
            "An output has its name when it is complete. If this one is older than the run, give --overwrite, too.",
        )
    check_target(target, overwrite, is_folder=True, inputs=inputs)


def _nbytes(base: Base, dtype: str) -> int:
    """Return the minimum bytes of a fully trained model; tensors that are not floats keep their size."""
    size = int(getattr(torch, dtype).itemsize)
    return sum(entry.elements * min(size, ITEM_SIZES[entry.dtype]) for entry in base.checkpoint.tensors.values())


def nbytes_of_adapter(model: PreTrainedModel | PeftModel, settings: TrainingSettings) -> int:
    """Return the bytes of an adapter's factors on disk, and 0 without one."""
    factors = sum(weight.numel() for weight in model.parameters() if weight.requires_grad) if settings.lora else 0
    return factors * getattr(torch, settings.dtype).itemsize
