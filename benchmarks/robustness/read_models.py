"""Readers of models: headers, indices, configurations and what travels with them, GGUF."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from numpy import arange, float16, float32, int64
from safetensors.numpy import save_file

from benchmarks.robustness import sound
from benchmarks.robustness.damage import changed, damage, each
from benchmarks.robustness.runner import Reader
from taskarith.checkpoints.checkpoint import open_checkpoint, read_json
from taskarith.checkpoints.gguf import find_gguf
from taskarith.checkpoints.gguf_header import check_gguf
from taskarith.checkpoints.header import read_header
from taskarith.checkpoints.reader import TensorReader
from taskarith.checkpoints.resolve import resolve_model
from taskarith.checkpoints.sidecars import check_sidecars
from taskarith.edit.apply import apply
from taskarith.edit.chat import chat_template_of
from taskarith.edit.enlarging import Enlarged
from taskarith.edit.tokenizer import choose_tokenizer
from taskarith.evaluation.models import find_model, open_model
from taskarith.inspection.inspect import inspect
from taskarith.models.load import load_config, load_tokenizer
from taskarith.progress import SILENT

__all__ = ["MODELS"]


def _prepare_header(folder: Path) -> None:
    tensors = {"a.weight": arange(8, dtype=float32).reshape(2, 4), "b.bias": arange(3, dtype=float16)}
    save_file(tensors | {"steps": arange(2, dtype=int64)}, folder / "m.safetensors", metadata={"format": "pt"})


def _read_header(folder: Path) -> None:
    header = read_header(folder / "m.safetensors")
    with TensorReader() as reader:
        for tensor in header.tensors:
            reader.fingerprint(tensor)
    inspect(folder / "m.safetensors")


def _prepare_index(folder: Path) -> None:
    sound.make_model(folder / "m", shards=3)


def _read_model(folder: Path) -> None:
    checkpoint = open_checkpoint(folder / "m")
    with TensorReader() as reader:
        for tensor in checkpoint.tensors.values():
            reader.fingerprint(tensor)


_SIDECARS = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def _prepare_config(folder: Path) -> None:
    sound.make_model(folder / "base")
    sound.make_model(folder / "tuned", seed=1)
    for name in ("base", "tuned"):
        (folder / name / "chat_template.jinja").write_text(
            "{% for m in messages %}{{ m }}{% endfor %}", encoding="utf-8"
        )
    quantization = {
        "quant_method": "fp8",
        "weight_block_size": [4, 4],
        "scale_fmt": None,
        "activation_scheme": "dynamic",
    }
    sound.make_float8(folder / "float8", quantization_config=quantization)


def _read_config(folder: Path) -> None:
    if changed(folder, "base/config.json").parent.name == "float8":
        apply(str(folder / "float8"), alpha=0, output_dir=folder / "out")
        return
    own, tuned = str(folder / "base"), str(folder / "tuned")
    if changed(folder, "base/config.json").parent.name == "tuned":
        each(
            lambda: apply(own, add=[f"{tuned}@@{own}"], output_dir=folder / "out"),
            lambda: apply(own, add=[f"{tuned}@@{own}"], output_dir=folder / "o2", tokenizer=tuned, chat_template=tuned),
        )
        return
    apply(own, add=[f"{folder / 'tuned'}@@{own}"], output_dir=folder / "out", tokenizer=own, chat_template=own)


_LOADED = ("base/config.json", "base/tokenizer.json", "base/tokenizer_config.json", "base/generation_config.json")


def _prepare_loaded(folder: Path) -> None:
    sound.make_model(folder / "base")
    sound.make_adapter(folder / "adapter")
    ends = {"eos_token_id": [1, 2], "do_sample": False}
    (folder / "base/generation_config.json").write_text(json.dumps(ends), encoding="utf-8")


def _read_loaded(folder: Path) -> None:
    """Load a model as ``eval`` does."""
    open_model(str(changed(folder, _LOADED[0]).parent), torch.device("cpu"), None, SILENT).model  # noqa: B018  (it is loaded)


def _read_gguf(folder: Path) -> None:
    resolve_model(str(folder / "m.gguf"))


def _open_sidecars(folder: Path) -> None:
    """Read the file that was damaged as an edit does before it writes."""
    path = changed(folder, "base/config.json")
    model = path.parent
    checkpoint = open_checkpoint(model)
    check_sidecars(model, [path.name])
    if path.name in {"chat_template.jinja", "tokenizer_config.json"}:
        chat_template_of(model)
    elif path.name == "tokenizer.json":
        choose_tokenizer(str(model), Enlarged(checkpoint))


def _open_loaded(folder: Path) -> None:
    """Read the file that was damaged as ``eval`` does before it loads weights."""
    path = changed(folder, _LOADED[0])
    if path.name.startswith("tokenizer"):
        load_tokenizer(path.parent)
    elif path.name == "config.json":
        load_config(open_checkpoint(path.parent))
    elif path.name == "adapter_config.json":
        find_model(str(path.parent), SILENT)
    else:
        read_json(path)


def _open_gguf(folder: Path) -> None:
    path = find_gguf(folder / "m.gguf")
    if path is not None:
        check_gguf(path)


MODELS = (
    Reader(
        "header",
        _prepare_header,
        damage("m.safetensors"),
        _read_header,
        lambda folder: read_header(folder / "m.safetensors"),
        share=20,
    ),
    Reader(
        "index",
        _prepare_index,
        damage("m/model.safetensors.index.json"),
        _read_model,
        lambda folder: open_checkpoint(folder / "m"),
        share=10,
    ),
    Reader(
        "config",
        _prepare_config,
        damage(*(f"{m}/{n}" for m in ("base", "tuned") for n in _SIDECARS), "float8/config.json"),
        _read_config,
        _open_sidecars,
        share=100,
    ),
    Reader(
        "models",
        _prepare_loaded,
        damage(*_LOADED, "adapter/adapter_config.json"),
        _read_loaded,
        _open_loaded,
        share=100,
    ),
    Reader(
        "gguf",
        lambda folder: sound.make_gguf(folder / "m.gguf"),
        damage("m.gguf"),
        _read_gguf,
        _open_gguf,
        share=100,
        seconds=2,
    ),
)
