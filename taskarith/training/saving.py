"""Saving of a trained model or adapter with the base's tensor names and other files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from taskarith.architecture.lookup import architectures_of
from taskarith.cards.licence import CARD_NAME
from taskarith.checkpoints.checkpoint import INDEX_NAME, Checkpoint, read_json
from taskarith.checkpoints.resolve import ResolvedModel
from taskarith.checkpoints.sidecars import copy_sidecars
from taskarith.errors import CheckpointError, TaskarithError, name_some
from taskarith.progress import Listener

__all__ = ["find_places", "save_adapter", "save_model"]

_FACTOR_B = ".lora_B."  # the factor that starts at zero
_SHARD_SIZE = "50GB"
_OTHER_FORMAT = "Save the base with this version of transformers (save_pretrained), and train that copy."
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_MODEL_ONLY = {"config.json", "generation_config.json"}


def find_places(model: PreTrainedModel, base: Checkpoint) -> dict[str, str | None]:
    """Map each tensor of the base to the tensor that transformers saves for it, or to None.

    transformers reads and writes some models under names that differ from those on the hub (a prefix more or less, a
    tied head, obsolete buffers). This is checked before training, so that its result can be saved.

    :param model: Loaded from the base.
    :param base: Its files.
    :raises CheckpointError: A tensor of the model is missing in the base, or has another shape there.
    """
    tied = _tied(model.state_dict())
    shapes = {name: getattr(p, "ds_shape", p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    empty = {
        name: torch.empty(shapes.get(name, tensor.shape), dtype=tensor.dtype, device="meta")
        for name, tensor in model.state_dict().items()
    }
    saved = revert_weight_conversion(model, dict(empty))
    places = {name: _spelling(name, saved, model.base_model_prefix) for name in base.tensors}
    wrong = [name for name, source in places.items() if source and base.tensors[name].shape != saved[source].shape]
    if wrong:
        source = saved[str(places[wrong[0]])]
        raise CheckpointError(
            f"{len(wrong)} tensors of {base.path} would be saved with other shapes by transformers: {wrong[0]} is "
            f"{list(base.tensors[wrong[0]].shape)} and would be {list(source.shape)}",
            _OTHER_FORMAT,
        )
    filled = {id(saved[source]) for source in places.values() if source}
    held = {name for name, tensor in empty.items() if id(tensor) in filled}
    spare = {id(empty[name]) for name in empty if tied.get(name, set()) & held}
    ignored = {id(empty[name]) for name in model._keys_to_ignore_on_save or () if name in empty}
    lost = sorted(name for name, tensor in saved.items() if id(tensor) not in filled | spare | ignored)
    if lost:
        raise CheckpointError(
            f"{len(lost)} tensors of {type(model).__name__} do not exist in {base.path}: {name_some(lost)}",
            _OTHER_FORMAT,
        )
    return places


def save_model(
    model: PreTrainedModel,
    state: Mapping[str, torch.Tensor],
    base: Checkpoint,
    places: Mapping[str, str | None],
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """Write a fully trained model with the tensor names of its base, so that the two can be subtracted.

    :param model: The trained model.
    :param state: Its weights, named as in ``state_dict``.
    :param base: The model it was trained from; all files except the weights are copied.
    :param places: Result of ``find_places``.
    :param folder: An empty folder to write to.
    :param dtype: Dtype of floating-point tensors on disk, except those few that the base stores in float32; tensors
        unknown to the model are copied unchanged.
    :raises TaskarithError: A weight is not finite in ``dtype``.
    :raises SafetensorError: The disk is full; ``publish`` reports it.
    """
    kept = _kept_wide(model, base, dtype)
    cast = _cast(state, dtype, {name for name, _ in model.named_parameters()}, kept)
    saved = revert_weight_conversion(model, cast)
    tensors = {name: saved[source] if source else _read(base, name) for name, source in places.items()}
    if kept:  # experts in one parameter all had to stay wide
        narrow = {
            name: tensors[name] for name, source in places.items() if source and base.tensors[name].dtype != "F32"
        }
        tensors |= _cast(narrow, dtype, {*narrow})
    _copy_sidecars(base, folder, leave_out=set())
    _set_dtype(folder / "config.json", dtype)
    _write_shards(tensors, folder, model.num_parameters())


def save_adapter(
    model: PeftModel,
    state: Mapping[str, torch.Tensor],
    base: Checkpoint,
    folder: Path,
    dtype: torch.dtype,
    origin: ResolvedModel,
    listener: Listener,
) -> None:
    """Write a PEFT adapter folder that names its base as the user did, with the base's tokenizer files.

    :param model: The trained model with its adapter.
    :param state: Its weights, named as in ``state_dict``.
    :param base: The model it was trained on.
    :param folder: An empty folder to write to.
    :param dtype: Dtype of the factors on disk.
    :param origin: Name and revision of the base.
    :param listener: Receives a note on layers that training did not change.
    :raises TaskarithError: A weight is not finite in ``dtype``.
    :raises SafetensorError: The disk is full; ``publish`` reports it.
    """
    factors = get_peft_model_state_dict(model, state_dict=dict(state), save_embedding_layers=False)
    cast = _cast(factors, dtype, set(factors))
    unmoved = sorted(name.partition(_FACTOR_B)[0] for name in cast if _FACTOR_B in name and not cast[name].any())
    if unmoved:
        names = [name.removeprefix("base_model.model.") for name in unmoved]
        listener.note(f"training did not change {len(names)} of the adapted layers: {name_some(names, 3)}")
    _copy_sidecars(base, folder, leave_out=_MODEL_ONLY)
    config: Any = model.peft_config["default"]
    config.base_model_name_or_path = origin.recorded_name
    config.revision = origin.revision
    config.inference_mode = True
    for name in ("target_modules", "target_parameters", "exclude_modules"):
        if isinstance(getattr(config, name, None), set):  # the order of a set varies between runs
            setattr(config, name, sorted(getattr(config, name)))
    config.save_pretrained(str(folder))
    save_file({name: cast[name] for name in sorted(cast)}, folder / _ADAPTER_WEIGHTS, metadata={"format": "pt"})


def _copy_sidecars(base: Checkpoint, folder: Path, leave_out: set[str]) -> None:
    """Copy tokenizer, templates, licence, code and the like; for an adapter, without a model's own files."""
    for relative in base.sidecars:
        if str(relative) == CARD_NAME or relative.name in leave_out or (leave_out and relative.suffix == ".py"):
            continue
        copy_sidecars(base.path, [relative], folder)


def _kept_wide(model: PreTrainedModel, base: Checkpoint, dtype: torch.dtype) -> set[str]:
    """Return the parameters stored in float32 in a base of lower precision, such as router biases."""
    sizes: Counter[str] = Counter()
    for entry in base.tensors.values():
        sizes[entry.dtype] += entry.elements
    wide = {name for name, entry in base.tensors.items() if entry.dtype == "F32"}
    if dtype.itemsize >= 4 or not wide or max(sizes, key=sizes.__getitem__) == "F32":
        return set()
    known = [layout for layout in architectures_of(base) if layout.model_class == type(model).__name__]
    return {piece.parameter for layout in known[:1] for name in wide for piece in layout.stored.get(name, ())}


def _cast(
    state: Mapping[str, torch.Tensor], dtype: torch.dtype, trained: set[str], kept: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """Round floating-point tensors to ``dtype`` on the CPU; tensors that share memory still share it.

    :param trained: Tensors that must be finite.
    :param kept: Tensors that keep their dtype.
    """
    done: dict[tuple[int, torch.Size], torch.Tensor] = {}
    cast: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in done:
            is_cast = tensor.is_floating_point() and name not in kept
            done[key] = tensor.detach().to("cpu", dtype if is_cast else None).contiguous()
        cast[name] = done[key]
        if name in trained and not cast[name].isfinite().all():
            raise TaskarithError(
                f"{name} is not finite in {dtype} after training; nothing was published",
                "Lower --learning-rate, or save in a dtype with a wider range, with --dtype.",
            )
    return cast


def _set_dtype(path: Path, dtype: torch.dtype) -> None:
    """Update the dtype of the weights in a copied configuration."""
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


def _spelling(name: str, saved: Mapping[str, torch.Tensor], prefix: str) -> str | None:
    """Return transformers' name of a tensor of the base, whose files may lack or repeat the model's prefix."""
    spellings = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
    return next((spelling for spelling in spellings if spelling in saved), None)


def _write_shards(tensors: Mapping[str, torch.Tensor], folder: Path, parameters: int) -> None:
    split = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=_SHARD_SIZE)
    for shard, names in split.filename_to_tensors.items():
        held = {name: tensors[name].contiguous() for name in names}
        for group in _tied(held).values():  # a file stores each of them; only one may own the memory
            held |= {name: held[name].clone() for name in group if name != min(group)}
        save_file(held, folder / shard, metadata={"format": "pt"})
    if split.is_sharded:
        index = {
            "metadata": {"total_parameters": parameters, **split.metadata},
            "weight_map": split.tensor_to_filename,
        }
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _tied(state: Mapping[str, torch.Tensor]) -> dict[str, set[str]]:
    """Return the group of tensors that share memory, for each of them."""
    groups: dict[tuple[int, torch.Size], set[str]] = {}
    for name, tensor in state.items():
        groups.setdefault((tensor.data_ptr(), tensor.shape), set()).add(name)
    return {name: group for group in groups.values() if len(group) > 1 for name in group}


def _read(base: Checkpoint, name: str) -> torch.Tensor:
    with safe_open(base.tensors[name].path, "pt") as file:
        return file.get_tensor(name)
