"""A model folder: its tensors by name, its shards, and the files that travel with it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any

from taskarith.checkpoints.float8 import Scaling, find_scalings
from taskarith.checkpoints.header import TensorEntry, read_header
from taskarith.checkpoints.provenance import PROVENANCE_NAME
from taskarith.checkpoints.reader import TensorReader, combine_fingerprints, file_states
from taskarith.errors import CheckpointError, OutputError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.untrusted import MalformedError, parse_json, read_text

__all__ = [
    "ADAPTER_CONFIG",
    "INDEX_NAME",
    "UNDO_NAME",
    "WEIGHTS_NAME",
    "Checkpoint",
    "Shard",
    "fingerprint_model",
    "fingerprint_tensors",
    "is_adapter",
    "open_checkpoint",
    "read_json",
]

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
UNDO_NAME = "taskarith-undo.safetensors"
"""The patch from an edited model back to its input; it belongs to that edit and does not travel."""

_WEIGHT_SUFFIXES = {
    ".safetensors", ".bin", ".pt", ".pt2", ".pte", ".ptl", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".jit",
    ".torchscript", ".distcp", ".nemo", ".mar", ".h5", ".hdf5", ".keras", ".pb", ".index", ".tflite", ".task",
    ".litertlm", ".msgpack", ".ot", ".npy", ".npz", ".params", ".pdparams", ".pdiparams", ".pdmodel", ".pdopt",
    ".mlmodel", ".onnx", ".ort", ".mnn", ".engine", ".plan", ".trt", ".gguf", ".ggml", ".llamafile", ".weights",
    ".tar", ".tgz", ".zst", ".zip", ".7z", ".rar",
}  # fmt: skip
"""Endings of weights in other formats, of training states and of archives, which may hold either."""

_WEIGHT_NAMES = re.compile(
    r".*\.index\.json|.*\.(safetensors|onnx|gguf)[._~-].*|.*\.tar\.\w+|.*\.data-\d+-of-\d+", re.IGNORECASE | re.DOTALL
)
"""Indexes, copies and parts of weights: ``model.onnx_data``, ``model.onnx.data``, ``model.safetensors.bak``."""

_ONNX_DATA = re.compile(r"onnx__.*|.*\.(data|weight|bias)", re.IGNORECASE | re.DOTALL)
"""What an ONNX export puts beside an ``.onnx`` file, other than by its name."""

_STATES = re.compile(r"global_step\d+|pytorch_model_fsdp_\d+")
"""Folders with the weights of a training that was spread over processes."""

_WEIGHT_FOLDERS = re.compile(r"global_step\d+|.*\.(mlpackage|mlmodelc|nemo)", re.IGNORECASE | re.DOTALL)
"""Folders that are weights or training states as a whole, those of DeepSpeed and Core ML."""

_MODEL_NAMES = (WEIGHTS_NAME, INDEX_NAME, "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files by which transformers takes a folder for a model."""

_fingerprints: dict[str, dict[str, str]] = {}
"""Of the models that this process has read, by what changes when a file of theirs changes."""


@dataclass(frozen=True)
class Shard:
    """One weights file: its name, its tensors in file order, its metadata."""

    name: str
    tensors: tuple[TensorEntry, ...]
    metadata: dict[str, str]


def check_ending(target: Path) -> None:
    """Refuse an output whose name says that its weights have another format than safetensors.

    :raises OutputError: It does.
    """
    if target.suffix.lower() in _WEIGHT_SUFFIXES - {".safetensors"}:
        raise OutputError(
            f"{target} would be a safetensors file, whatever {target.suffix} says",
            f"Name it {target.stem}.safetensors.",
        )


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk; only headers and small JSON files have been read.

    :param path: The folder.
    :param shards: The weights files, by name.
    :param tensors: All tensors by name, in shard and file order.
    :param config: ``config.json``.
    :param sidecars: Files to be carried along, relative to the folder.
    :param left_out: Other weights (formats or copies that an edit would not reach), relative to the folder.
    :param scalings: Scales of the weights that are stored as float8.
    """

    path: Path
    shards: tuple[Shard, ...]
    tensors: dict[str, TensorEntry]
    config: dict[str, Any]
    sidecars: tuple[Path, ...]
    left_out: tuple[Path, ...]
    scalings: dict[str, Scaling]

    def is_editable(self, name: str) -> bool:
        """Whether arithmetic is defined on a tensor: a float, or float8 with scales."""
        return self.tensors[name].is_float or name in self.scalings

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a model folder of safetensors files, one or many.

    :raises CheckpointError: It is missing or empty, holds pickled or quantised weights only, or its index and its
        files do not agree.
    """
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is not a model folder", "Give a folder with config.json and *.safetensors files."
        )
    if is_adapter(path):
        raise CheckpointError(
            f"{path} is an adapter, not a model", "Name its base model here, and the adapter as a vector."
        )
    shards = _open_shards(path)
    tensors: dict[str, TensorEntry] = {}
    for shard in shards:
        for tensor in shard.tensors:
            if tensor.name in tensors:
                raise CheckpointError(
                    f"{tensor.name} is both in {tensors[tensor.name].path.name} and in {shard.name} of {path}",
                    "Save the model again with save_pretrained.",
                )
            tensors[tensor.name] = tensor
    if not tensors:
        raise CheckpointError(f"{path} does not hold any tensor", "Download the model, or save it, again.")
    config = read_json(path / "config.json")
    scalings = find_scalings(path, tensors, config)
    sidecars, left_out = _other_files(path, {shard.name for shard in shards})
    return Checkpoint(path, shards, tensors, config, sidecars, left_out, scalings)


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter, whose weights are a change of a model.

    :raises CheckpointError: It holds a model as well; nothing says whether that, the adapter or their sum is meant.
    """
    if not (path / ADAPTER_CONFIG).exists():
        return False
    model = next((name for name in _MODEL_NAMES if (path / name).exists()), None)
    if model is not None:
        raise CheckpointError(
            f"{path} holds a model ({model}) and an adapter ({ADAPTER_CONFIG}): nothing says which of them is meant",
            f"Move {ADAPTER_CONFIG} and adapter_model.* to a folder of their own; then name the model or the adapter.",
        )
    return True


def fingerprint_model(path: Path) -> str:
    """Return the fingerprint of all tensors of a model folder (one pass over its files), as 32 hex digits."""
    return combine_fingerprints(fingerprint_tensors(open_checkpoint(path)))


def fingerprint_tensors(checkpoint: Checkpoint, listener: Listener = SILENT) -> dict[str, str]:
    """Return the fingerprint of each tensor of a model; its files are read once in a process, unless they change."""
    key = json.dumps(file_states(tensor.path for tensor in checkpoint.tensors.values()))
    if key not in _fingerprints:
        found, done, total = {}, 0, checkpoint.nbytes
        with TensorReader() as reader:
            for name, tensor in checkpoint.tensors.items():
                listener.progress(f"fingerprinting {checkpoint.path.name}", done, total)
                found[name] = reader.fingerprint(tensor)
                done += tensor.nbytes
        _fingerprints[key] = found
    return dict(_fingerprints[key])


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    :raises CheckpointError: The file is missing, unreadable, not in Unicode, or holds anything else or values that
        nothing can be done with; see ``untrusted``.
    """
    if path.exists() and not path.is_file():  # to open a pipe waits for whoever writes into it
        raise CheckpointError(f"cannot read {path}: it is not a regular file", "Save or download the model again.")
    try:
        value = parse_json(read_text(path))
    except MalformedError as error:
        raise CheckpointError(
            f"cannot read {path}: {error}", "A model folder needs this file; save or download it again."
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} does not hold a JSON object", "Save or download the model again.")
    return value


def _open_shards(path: Path) -> tuple[Shard, ...]:
    single, index = path / WEIGHTS_NAME, path / INDEX_NAME
    if single.exists() and index.exists():
        raise CheckpointError(f"{path} has both {WEIGHTS_NAME} and {INDEX_NAME}", "Remove the one that is out of date.")
    if single.exists() or single.is_symlink():
        return (_shard(single),)
    if index.exists() or index.is_symlink():
        return _open_index(path, read_json(index).get("weight_map"))
    raise _no_weights(path)


def _open_index(path: Path, weight_map: object) -> tuple[Shard, ...]:
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path / INDEX_NAME} has no weight_map", "Save or download the model again.")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if PurePosixPath(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{path / INDEX_NAME} points to '{name}', which is not a safetensors file of its folder",
                "Do not use this model: its index reaches outside.",
            )
    shards = tuple(_shard(path / name) for name in names)
    found = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    wrong = sorted(name for name in found.keys() | weight_map.keys() if found.get(name) != weight_map.get(name))
    if wrong:
        raise CheckpointError(
            f"index and shards of {path} disagree on {len(wrong)} tensors: {name_some(wrong)}",
            "Save or download the model again.",
        )
    return shards


def _shard(path: Path) -> Shard:
    header = read_header(path)
    return Shard(path.name, header.tensors, header.metadata)


def _no_weights(path: Path) -> CheckpointError:
    states = sorted(p.name for p in path.iterdir() if p.is_dir() and _STATES.fullmatch(p.name))
    if states:
        return CheckpointError(
            f"{path} has no weights, only the state of a training spread over processes ({name_some(states)})",
            f"Gather it: python {path}/zero_to_fp32.py {path} DIR --safe_serialization (DeepSpeed), or accelerate "
            f"merge-weights {path / states[0]} DIR (FSDP); then put config.json and the tokenizer beside the weights.",
        )
    pickled = sorted(p.name for p in path.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt"})
    if pickled:
        script = f"M.from_pretrained('{path}').save_pretrained('{path}-safetensors')"
        return CheckpointError(
            f"{path} holds pickled weights ({name_some(pickled)}), which can run code when they are opened",
            f'If you trust them, run once: python -c "from transformers import AutoModelForCausalLM as M; {script}"',
        )
    message = f"{path} has no {WEIGHTS_NAME} and no {INDEX_NAME}"
    named = sorted(path.glob("*.safetensors"))
    if len(named) == 1:
        return CheckpointError(
            f"{message}, only {named[0].name}",
            f"If that is the whole model, rename it: mv {quote(str(named[0]))} {quote(str(path / WEIGHTS_NAME))}",
        )
    return CheckpointError(message, "Save the model with save_pretrained.")


def _other_files(path: Path, weights: set[str]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    sidecars, left_out = [], []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        apart = [name for name in folders if _WEIGHT_FOLDERS.fullmatch(name) or (Path(folder) / name).is_symlink()]
        left_out += [(Path(folder) / name).relative_to(path) for name in apart]
        folders[:] = [name for name in folders if name not in apart]
        has_onnx = any(name.lower().endswith(".onnx") for name in names)
        for name in sorted(names):
            relative = (Path(folder) / name).relative_to(path)
            if str(relative) in {*weights, INDEX_NAME, PROVENANCE_NAME, UNDO_NAME} or name.startswith("."):
                continue
            is_other = name == ADAPTER_CONFIG or _is_weights(name, has_onnx)
            (left_out if is_other else sidecars).append(relative)
    return tuple(sidecars), tuple(left_out)


def _is_weights(name: str, has_onnx: bool) -> bool:
    """Tell whether a file holds other weights; ``has_onnx``: an ``.onnx`` file lies beside it."""
    is_known = Path(name).suffix.lower() in _WEIGHT_SUFFIXES or _WEIGHT_NAMES.fullmatch(name)
    return bool(is_known or (has_onnx and _ONNX_DATA.fullmatch(name)))
