"""Readers of vectors: adapters, every form of a task vector, weights of importance."""

from __future__ import annotations

from pathlib import Path

from benchmarks.robustness import sound
from benchmarks.robustness.damage import changed, damage, each
from benchmarks.robustness.runner import Reader
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.apply import apply
from taskarith.inspection.inspect import inspect
from taskarith.inspection.open_tensors import PackedEntry, raw_chunks
from taskarith.inspection.verify import verify
from taskarith.merging.methods import parse_method
from taskarith.vectors.lora.read import read_adapter
from taskarith.vectors.open import open_packed, open_weights, recorded_base
from taskarith.vectors.vector import Packed, Stored

__all__ = ["VECTORS"]


def _prepare_adapter(folder: Path) -> None:
    sound.make_model(folder / "base")
    sound.make_adapter(folder / "adapter")


def _read_adapter(folder: Path) -> None:
    inspect(folder / "adapter")
    apply(str(folder / "base"), add=[f"{folder / 'adapter'}@@{folder / 'base'}"], output_dir=folder / "out")


_FORMS = tuple(f"{name}.safetensors" for name in ("dense", "exact", "sparse", "rows", "eight", "one"))


def _read_vector(folder: Path) -> None:
    path = changed(folder, _FORMS[0])
    each(
        lambda: verify(path),
        lambda: inspect(path),
        lambda: apply(str(folder / "base"), add=[str(path)], output_dir=folder / "out"),
    )


def _prepare_weights(folder: Path) -> None:
    sound.make_vectors(folder)
    sound.make_weights(folder / "dense.safetensors", folder / "weights.safetensors")


def _read_weights(folder: Path) -> None:
    inspect(folder / "weights.safetensors")
    vector, weights = str(folder / "dense.safetensors"), str(folder / "weights.safetensors")
    apply(
        str(folder / "base"), negate=[vector], weights=weights, method=parse_method("perta"), output_dir=folder / "out"
    )


def _open_adapter(folder: Path) -> None:
    recorded_base(str(folder / "adapter"))
    read_adapter(folder / "adapter")


def _decode_vector(folder: Path) -> None:
    """Decode all deltas."""
    path = changed(folder, _FORMS[0])
    vector = open_packed(path)
    with TensorReader() as reader:
        for name, shape in vector.shapes.items():
            match vector.delta(name):
                case Packed() as packed:
                    for _ in raw_chunks(reader, PackedEntry(name, shape, path, packed)):
                        pass
                case Stored(entry):
                    reader.fingerprint(entry)


def _open_weights(folder: Path) -> None:
    weights = open_weights(str(folder / "weights.safetensors"))
    for name in weights.shapes:
        weights.delta(name)


VECTORS = (
    Reader(
        "adapter",
        _prepare_adapter,
        damage("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
        _read_adapter,
        _open_adapter,
        share=100,
    ),
    Reader("vectors", sound.make_vectors, damage(*_FORMS), _read_vector, _decode_vector, share=100),
    Reader("weights", _prepare_weights, damage("weights.safetensors"), _read_weights, _open_weights, share=100),
)
