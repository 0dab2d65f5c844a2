"""The trained weights of a checkpoint, in safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from taskarith.errors import CheckpointError, MismatchError

__all__ = ["load_trained", "save_trained"]

_NAME = "trained.safetensors"
_START_OVER = "Start over with --overwrite."


def save_trained(model: torch.nn.Module, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write what training changes: trainable parameters and buffers, under their names in memory.

    ``save_pretrained`` would write the names of published files and, for many architectures, other tensors: fused ones
    split, some of them transposed. A model in memory cannot load those by name.

    :param model: The trained model or PEFT model.
    :param folder: The checkpoint's folder, created if missing.
    :param state: All its weights, where they are spread over processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict() if state is None else state
    tensors = {name: state[name].detach().contiguous() for name in _trained_names(model)}
    save_file(tensors, folder / _NAME, metadata={"format": "pt"})


def load_trained(model: torch.nn.Module, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Load what ``save_trained`` wrote into a model.

    :param state: All its weights, where they are spread over processes: these are replaced, in place.
    :raises CheckpointError: The file is missing or damaged.
    :raises MismatchError: Its tensors are not exactly the trained ones; nothing is loaded.
    """
    path, names = folder / _NAME, _trained_names(model)
    state = model.state_dict() if state is None else state
    if not path.exists():
        raise CheckpointError(
            f"{folder} does not contain {_NAME}; checkpoints of earlier releases cannot be loaded completely",
            _START_OVER,
        )
    try:
        with safe_open(path, "pt") as file:
            stored = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  (not a mapping)
            _check_fit(folder, {name: list(state[name].shape) for name in names}, stored)
            for name, tied in names.items():
                for other in tied:
                    state[other].copy_(file.get_tensor(name))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}", _START_OVER) from error


def _trained_names(model: torch.nn.Module) -> dict[str, list[str]]:
    """Return the names of trainable parameters and of the state's buffers, each with those that are tied to it."""
    state = model.state_dict().keys()
    names = {name: [name] for name, _ in model.named_buffers() if name in state}
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            names.setdefault(first.setdefault(id(parameter), name), []).append(name)
    return names


def _check_fit(folder: Path, wanted: Mapping[str, list[int]], stored: Mapping[str, list[int]]) -> None:
    wrong = sorted(name for name in wanted.keys() | stored.keys() if wanted.get(name) != stored.get(name))
    if wrong:
        first = wrong[0]
        raise MismatchError(
            f"the checkpoint {folder} does not fit the trained model: {len(wrong)} tensors differ, such as "
            f"{first} ({stored.get(first, 'absent')} in the checkpoint, {wanted.get(first, 'absent')} in the model)",
            "Resume with the transformers and PEFT versions of the run, or start over with --overwrite.",
        )
