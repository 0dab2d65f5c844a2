"""What a training leaves behind: a model or adapter folder with the base's tensor names and the base's other files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from taskarith.checkpoints.checkpoint import INDEX_NAME, Checkpoint, open_checkpoint, read_json
from taskarith.checkpoints.resolve import ResolvedModel
from taskarith.errors import CheckpointError, OutputError, TaskarithError, name_some
from taskarith.progress import Listener
from taskarith.training.model import without_bars

__all__ = ["save_adapter", "save_model"]

_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_MODEL_ONLY = {"config.json", "generation_config.json", "README.md"}


def save_model(
    model: PreTrainedModel,
    state: Mapping[str, torch.Tensor],
    base: Checkpoint,
    folder: Path,
    dtype: torch.dtype,
    listener: Listener,
) -> None:
    """Write a fully trained model that has the tensor names of its base, so that the two can be subtracted.

    transformers reads and writes some models under other names than those on the hub (a prefix more or less, a tied
    head, buffers it no longer uses); those get the base's names back, and what training cannot reach is copied.

    :param model: The trained model.
    :param state: Its weights as ``state_dict`` names them.
    :param base: The model it was trained from; all its files but the weights are copied.
    :param folder: An empty folder to write into.
    :param dtype: Of the floating-point tensors on disk.
    :param listener: Told about copied tensors.
    :raises TaskarithError: A weight is not finite in ``dtype``.
    :raises CheckpointError: A trained tensor has no place in the base.
    :raises OutputError: The disk is full.
    """
    cast = _cast(state, dtype, {name for name, _ in model.named_parameters()})
    tied = _tied(cast)
    try:
        with without_bars():  # this empties the dictionary it is given
            model.save_pretrained(folder, state_dict=cast)
        for path in folder.iterdir():
            if path.suffix != ".safetensors" and path.name != INDEX_NAME:
                path.unlink() if path.is_file() else shutil.rmtree(path)
        _copy_sidecars(base, folder, leave_out=set())
        _set_dtype(folder / "config.json", dtype)
        _restore_names(model.base_model_prefix, tied, base, folder, listener)
    except SafetensorError as error:  # what its writer makes of a failing disk
        raise OutputError(f"cannot write {folder}: {error}", "Free some space, or name another output.") from error


def save_adapter(
    model: PeftModel,
    state: Mapping[str, torch.Tensor],
    base: Checkpoint,
    folder: Path,
    dtype: torch.dtype,
    origin: ResolvedModel,
) -> None:
    """Write a PEFT adapter folder that names its base as the user did, with the base's tokenizer files.

    :param model: The trained model with its adapter.
    :param state: Its weights as ``state_dict`` names them.
    :param base: The model it was trained on.
    :param folder: An empty folder to write into.
    :param dtype: Of the factors on disk.
    :param origin: Name and revision of the base.
    :raises TaskarithError: A weight is not finite in ``dtype``.
    :raises OutputError: The disk is full.
    """
    factors = get_peft_model_state_dict(model, state_dict=dict(state), save_embedding_layers=False)
    cast = _cast(factors, dtype, set(factors))
    _copy_sidecars(base, folder, leave_out=_MODEL_ONLY)
    config: Any = model.peft_config["default"]
    config.base_model_name_or_path = origin.recorded_name
    config.revision = origin.revision
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set: its order would differ from run to run
    config.save_pretrained(str(folder))
    try:
        save_file({name: cast[name] for name in sorted(cast)}, folder / _ADAPTER_WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OutputError(f"cannot write {folder}: {error}", "Free some space, or name another output.") from error


def _copy_sidecars(base: Checkpoint, folder: Path, leave_out: set[str]) -> None:
    """Copy tokenizer, templates, licence, code and the like; for an adapter, not what makes a folder a model."""
    for relative in base.sidecars:
        if relative.name in leave_out or (leave_out and relative.suffix == ".py"):
            continue
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base.path / relative, folder / relative)


def _cast(state: Mapping[str, torch.Tensor], dtype: torch.dtype, trained: set[str]) -> dict[str, torch.Tensor]:
    """Round floating-point tensors to ``dtype`` on the CPU; tensors that share memory go on sharing it."""
    done: dict[tuple[int, torch.Size], torch.Tensor] = {}
    cast: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in done:
            done[key] = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        cast[name] = done[key]
        if name in trained and not cast[name].isfinite().all():
            raise TaskarithError(
                f"{name} is not finite in {dtype} after training; nothing was published",
                "Lower --learning-rate, or save in a dtype of wider range with --dtype.",
            )
    return cast


def _set_dtype(path: Path, dtype: torch.dtype) -> None:
    """Say in a copied configuration which dtype its weights now have, where it said so before."""
    config, name = read_json(path), str(dtype).removeprefix("torch.")

    def replace(part: dict[str, Any]) -> None:
        for key, value in part.items():
            if key in {"dtype", "torch_dtype"}:
                part[key] = name
            elif isinstance(value, dict) and key.endswith("_config") and key != "quantization_config":
                replace(value)

    replace(config)
    if not {"dtype", "torch_dtype"} & config.keys():
        config["dtype"] = name
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _restore_names(
    prefix: str, tied: Mapping[str, set[str]], base: Checkpoint, folder: Path, listener: Listener
) -> None:
    saved = open_checkpoint(folder)
    if saved.tensors.keys() == base.tensors.keys():
        return
    sources = _sources(list(base.tensors), set(saved.tensors), prefix, tied)
    lost = sorted(saved.tensors.keys() - set(sources.values()))
    if lost:
        raise CheckpointError(
            f"{len(lost)} trained tensors have no place in {base.path}: {name_some(lost)}",
            "Save the base with save_pretrained of this transformers version, and train that.",
        )
    copied = [name for name, source in sources.items() if source is None]
    if copied:
        listener.note(f"{len(copied)} tensors are not part of the trained model and are copied: {name_some(copied, 3)}")
    _rewrite(saved, sources, base, folder)


def _rewrite(saved: Checkpoint, sources: Mapping[str, str | None], base: Checkpoint, folder: Path) -> None:
    """Write each shard again under the base's names; the first also takes what is copied from the base."""
    weight_map, total = {}, 0
    for number, shard in enumerate(saved.shards):
        path, inside = folder / shard.name, {tensor.name for tensor in shard.tensors}
        held = load_file(path)
        tensors = {name: held[source].clone() for name, source in sources.items() if source in inside}
        if number == 0:
            tensors |= {name: _read(base, name) for name, source in sources.items() if source is None}
        save_file(tensors, path.with_suffix(".new"), metadata=shard.metadata)
        del held
        path.with_suffix(".new").replace(path)
        weight_map |= dict.fromkeys(tensors, shard.name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if (folder / INDEX_NAME).exists():
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _sources(names: Sequence[str], saved: set[str], prefix: str, tied: Mapping[str, set[str]]) -> dict[str, str | None]:
    """Find for each name of the base the saved tensor that belongs there; None where training has none."""
    sources: dict[str, str | None] = {}
    for name in names:
        spellings = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
        alike = [other for spelling in spellings for other in (spelling, *sorted(tied.get(spelling, ())))]
        sources[name] = next((other for other in alike if other in saved), None)
    return sources


def _tied(state: Mapping[str, torch.Tensor]) -> dict[str, set[str]]:
    """Return for each tensor that shares its memory the others that do."""
    groups: dict[tuple[int, torch.Size], set[str]] = {}
    for name, tensor in state.items():
        groups.setdefault((tensor.data_ptr(), tensor.shape), set()).add(name)
    return {name: group - {name} for group in groups.values() if len(group) > 1 for name in group}


def _read(base: Checkpoint, name: str) -> torch.Tensor:
    with safe_open(base.tensors[name].path, "pt") as file:
        return file.get_tensor(name)
