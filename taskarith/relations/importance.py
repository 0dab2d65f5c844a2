"""The verb `importance`: the importance of each parameter for forgetting against retaining, from gradients.

Source: PerTA, "Per-parameter Task Arithmetic for Unlearning in Large Language Models" (arXiv:2601.22030), which weights
each parameter of a task vector by its relative importance for forgetting against retaining, estimated from gradients
or from the diagonal of the Fisher information. The form of the weight, forget / (forget + retain), is ours:
only the paper's idea is followed, and its own normalisation may differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from taskarith.checkpoints.checkpoint import Checkpoint, check_ending, open_checkpoint
from taskarith.checkpoints.provenance import command_line, versions
from taskarith.checkpoints.publish import check_target, publish_file
from taskarith.checkpoints.reader import TensorReader, hasher
from taskarith.checkpoints.targets import check_space
from taskarith.checkpoints.team import ALONE, Team, launched_team
from taskarith.data.documents import RowForm
from taskarith.data.load import check_form, data_paths, load_data
from taskarith.data.tokens import Sample, tokenize
from taskarith.errors import CheckpointError, UsageError, name_some
from taskarith.evaluation.models import Loaded, open_together
from taskarith.models.runtime import Runtime
from taskarith.progress import SILENT, Listener
from taskarith.vectors.file import WEIGHTS, vector_metadata
from taskarith.vectors.vector import BaseRecord

__all__ = ["KINDS", "ImportanceResult", "importance"]

KINDS = ("gradient", "fisher")
"""``gradient``: the magnitude of the gradient of the mean loss. ``fisher``: the mean of its square over samples."""


@dataclass(frozen=True)
class ImportanceResult:
    """The weights that were written.

    :param path: The file.
    :param kind: One of ``KINDS``.
    :param tensors: Number of tensors with weights.
    :param forget_samples: Samples of the forget set.
    :param retain_samples: Samples of the retain set.
    :param mean: Mean of all weights; above 0.5, the parameters matter more for forgetting.
    """

    path: Path
    kind: str
    tensors: int
    forget_samples: int
    retain_samples: int
    mean: float


def importance(
    model: str | Path,
    forget: str | Path,
    retain: str | Path,
    output: str | Path,
    *,
    kind: str = "gradient",
    block_size: int = 256,
    apply_chat_template: bool = False,
    system_prompt: str = "",
    device: str = "auto",
    device_map: str | None = None,
    overwrite: bool = False,
    launched: bool = False,
    trust_remote_code: bool = False,
    listener: Listener = SILENT,
) -> ImportanceResult:
    """Write a weight from 0 to 1 for each parameter: forget / (forget + retain), for ``apply --method perta``.

    A parameter that matters for neither has weight 0.5. Gradients are added in float64 where the device has it, so that
    their order hardly ever changes a bit. Memory holds 20 bytes per parameter: weights, gradients, and the sums of both
    sides.

    :param model: The model to edit, whose gradients are taken.
    :param forget: The forget set, as in ``load_data``.
    :param retain: The retain set.
    :param output: The file to write: float32, named as in the model's files.
    :param kind: One of ``KINDS``.
    :param block_size: Tokens per block of plain text; a block is a sample.
    :param apply_chat_template: Format the questions of rows with the tokenizer's chat template.
    :param system_prompt: System message of every chat; empty for none.
    :param device: auto, cpu, cuda[:N] or mps.
    :param device_map: As in ``Runtime``.
    :param overwrite: Replace an existing file.
    :param launched: All processes started by ``accelerate launch`` make this call and share the samples; the first
        writes.
    :param trust_remote_code: Run Python code that comes with the model.
    :param listener: Receives progress updates.
    :raises UsageError: The kind is unknown, or a block is longer than the model has positions.
    :raises DataError: A data set is missing, empty or too short.
    :raises CheckpointError: The model cannot be used, or a gradient is not finite.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind '{kind}'", f"Choose one of {', '.join(KINDS)}.")
    model, forget, retain, target = str(model), str(forget), str(retain), Path(output)
    inputs = [model, *data_paths([forget, retain])]
    check_ending(target)
    check_target(target, overwrite, is_folder=False, inputs=inputs)
    form = RowForm(apply_chat_template, system_prompt)
    texts = load_data(forget, form), load_data(retain, form)
    check_form(form, texts)
    team = launched_team() if launched else ALONE
    loaded = open_together(model, Runtime("float32", device, trust_remote_code, device_map), listener, team)
    if loaded.adapter is not None:
        raise UsageError(f"{loaded.name} is an adapter", "Merge it first: taskarith apply BASE --add ADAPTER")
    loaded.check_block(block_size)
    samples = [tokenize(text, loaded.tokenizer, block_size) for text in texts]
    base = open_checkpoint(loaded.resolved.path)
    parameters = _parameters(loaded, base)
    check_space(target, 4 * sum(parameter.numel() for parameter in parameters.values()))
    total = sum(map(len, samples))
    sides = []
    for number, group in enumerate(samples):
        before = len(samples[0]) * number

        def on_sample(count: int, before: int = before) -> None:
            listener.progress("taking gradients", min(before + count * team.size, total), total)

        sides.append(_importance(loaded, parameters, group, kind, on_sample, team))

    def write() -> ImportanceResult:
        weights = {name: _weight(sides[0][name], sides[1][name]) for name in parameters}
        with publish_file(target, overwrite, inputs=[*inputs, base.path]) as partial:
            save_file(weights, partial, metadata=_metadata(loaded, base, target, kind, weights))
        mean = sum(float(tensor.sum(dtype=torch.float64)) for tensor in weights.values())
        elements = sum(tensor.numel() for tensor in weights.values())
        return ImportanceResult(target, kind, len(weights), len(samples[0]), len(samples[1]), mean / elements)

    return team.by_first(write)


def _parameters(loaded: Loaded, base: Checkpoint) -> dict[str, torch.nn.Parameter]:
    """Return the parameters by name.

    :raises CheckpointError: The names of modules and files differ.
    """
    parameters = dict(loaded.model.named_parameters())
    if unknown := [name for name in parameters if name not in base.tensors]:
        raise CheckpointError(
            f"{len(unknown)} parameters of {loaded.name} have different names in memory than in its files: "
            f"{name_some(unknown)}",
            "Importance does not support this architecture.",
        )
    return parameters


def _importance(
    loaded: Loaded,
    parameters: Mapping[str, torch.nn.Parameter],
    samples: Sequence[Sample],
    kind: str,
    on_sample: Callable[[int], None],
    team: Team,
) -> dict[str, torch.Tensor]:
    """Return the importance of each parameter for some samples, float32, in CPU memory."""
    dtype = torch.float32 if loaded.device.type == "mps" else torch.float64
    sums = {name: torch.zeros_like(parameter, dtype=dtype) for name, parameter in parameters.items()}
    for count, sample in enumerate(team.share(samples), start=1):
        loaded.model.zero_grad(set_to_none=True)
        ids = torch.tensor([sample.input_ids], device=loaded.model.device)
        labels = ids.clone()
        labels[:, : max(sample.prompt_length, 1)] = -100
        loaded.model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                sums[name] += parameter.grad.square() if kind == "fisher" else parameter.grad
        on_sample(count)
    loaded.model.zero_grad(set_to_none=True)
    means = {}
    for name in parameters:
        total = team.add(sums.pop(name).cpu())
        if not torch.isfinite(total).all():
            raise CheckpointError(f"the gradient of {name} is not finite", "Check the model and the data.")
        means[name] = (total.abs_() / len(samples)).float()
    return means


def _weight(forget: torch.Tensor, retain: torch.Tensor) -> torch.Tensor:
    both = forget + retain
    return torch.where(both > 0, forget / both, 0.5)


def _metadata(
    loaded: Loaded, base: Checkpoint, target: Path, kind: str, weights: Mapping[str, torch.Tensor]
) -> dict[str, str]:
    with TensorReader() as reader:
        fingerprints = {name: reader.fingerprint(entry) for name, entry in sorted(base.tensors.items())}
    return vector_metadata(
        WEIGHTS,
        BaseRecord.of(loaded.resolved, fingerprints),
        {"name": f"importance by {kind}"},
        "F32",
        {},
        target,
        deltas=json.dumps({name: _fingerprint(tensor) for name, tensor in weights.items()}, separators=(",", ":")),
        command=command_line(),
        versions=json.dumps(versions(), separators=(",", ":")),
    )


def _fingerprint(weights: torch.Tensor) -> str:
    """Return the fingerprint of a float32 tensor as stored."""
    state = hasher("F32", tuple(weights.shape))
    state.update(weights.contiguous().reshape(-1).numpy())
    return state.hexdigest()
