"""From what a user calls a vector to an opened one: a vector file, an adapter folder, a fine-tuned model."""

from __future__ import annotations

from pathlib import Path

from taskarith.checkpoints.checkpoint import Checkpoint, open_checkpoint
from taskarith.checkpoints.provenance import read_provenance
from taskarith.checkpoints.resolve import ResolvedModel, resolve_model
from taskarith.errors import CheckpointError, MismatchError, VectorError
from taskarith.progress import SILENT, Listener
from taskarith.vectors.adapter import ADAPTER_CONFIG, AdapterVector, adapter_base
from taskarith.vectors.dense import WEIGHTS, DenseVector, VectorFile
from taskarith.vectors.form import BaseRecord, Vector
from taskarith.vectors.pair import PairVector

__all__ = ["open_packed", "open_vector", "open_weights", "recorded_base"]


def open_vector(
    name: str,
    base: Checkpoint,
    listener: Listener = SILENT,
    *,
    against_base: bool = False,
    shared_vocabulary: bool = False,
    ignore_buffers: bool = False,
) -> Vector:
    """Open a vector that is to be applied to a base.

    :param name: A ``.safetensors`` task vector, a LoRA folder, or a fine-tuned model (folder or hub id); the delta of
        a model is taken against the base that its ``taskarith.json`` records, or else against ``base``.
    :param base: The checkpoint to be edited.
    :param listener: Told about downloads.
    :param against_base: Take the delta of a model against ``base``, whatever it records.
    :param shared_vocabulary: Accept a model with a vocabulary of another size; see ``PairVector``.
    :param ignore_buffers: Leave out buffers that only one of a model and its base has.
    :raises VectorError: There is no such vector, or it is of a kind that cannot be used.
    :raises MismatchError: It does not fit the base.
    """
    path = _locate(name, listener)
    if path.is_file():
        return _open_file(path, base, listener)
    record = recorded_base(name, listener)
    if (path / ADAPTER_CONFIG).exists():
        return AdapterVector(path, base, record, _trained_on(record, base))
    if record is None or against_base:
        own, record = base, BaseRecord(str(base.path))
    else:
        own = open_checkpoint(_resolve_base(name, record, listener).path)
    return PairVector(
        own, open_checkpoint(path), record, shared_vocabulary=shared_vocabulary, ignore_buffers=ignore_buffers
    )


def open_weights(name: str) -> Vector:
    """Open a file with a weight for each parameter.

    :raises VectorError: There is none, or it is something else.
    """
    if not Path(name).is_file():
        raise VectorError(f"there is no file {name}", "Make one: taskarith importance MODEL --forget ... --retain ...")
    return DenseVector(Path(name), WEIGHTS)


def open_packed(path: Path, listener: Listener = SILENT) -> Vector:
    """Open a packed vector file alone, to look into it.

    :raises VectorError: It is no vector, or its header is broken.
    :raises CheckpointError: It is exact, and the base that it records is not found.
    :raises MismatchError: It is exact, and that base has other tensors.
    """
    return _open_file(path, None, listener)


def recorded_base(name: str, listener: Listener = SILENT) -> BaseRecord | None:
    """Return the base that a vector, an adapter or a fine-tuned folder records, or None."""
    path = _locate(name, listener)
    if path.is_file():
        return VectorFile(path).base
    record = (read_provenance(path) or {}).get("base")
    if isinstance(record, dict) and record.get("name"):
        return BaseRecord(str(record["name"]), record.get("revision"), str(record.get("fingerprint", "")))
    return adapter_base(path) if (path / ADAPTER_CONFIG).exists() else None


def _open_file(path: Path, base: Checkpoint | None, listener: Listener) -> Vector:
    match VectorFile(path).kind:
        case "exact":
            from taskarith.vectors.exact import ExactVector

            return ExactVector(path, _origin(path, base, listener))
        case "sparse":
            from taskarith.vectors.sparse import SparseVector

            return SparseVector(path)
        case "quantised":
            from taskarith.vectors.quantised import QuantisedVector

            return QuantisedVector(path)
    return DenseVector(path)


def _origin(path: Path, base: Checkpoint | None, listener: Listener) -> Checkpoint:
    """Return the base that a vector records, or where it is not found the one at hand: its fingerprints will tell."""
    try:
        return open_checkpoint(resolve_model(str(VectorFile(path).base), listener).path)
    except CheckpointError:
        if base is None:
            raise
        return base


def _locate(name: str, listener: Listener) -> Path:
    path = Path(name)
    if path.exists():
        return path
    if path.suffix == ".safetensors" or name.count("/") != 1:
        raise VectorError(
            f"there is no vector {name}",
            "Give a .safetensors task vector, a LoRA folder or a fine-tuned model, with an optional :COEFFICIENT.",
        )
    return resolve_model(name, listener).path


def _trained_on(record: BaseRecord | None, base: Checkpoint) -> Checkpoint:
    """Return the model that an adapter's saved tensors are compared with: its own base, if that is a folder here."""
    place = Path(record.name) if record is not None else base.path
    if not place.is_dir() or place.resolve() == base.path.resolve():
        return base
    try:
        return open_checkpoint(place)
    except CheckpointError:  # the model to be edited is what there is
        return base


def _resolve_base(name: str, record: BaseRecord, listener: Listener) -> ResolvedModel:
    try:
        return resolve_model(str(record), listener)
    except CheckpointError as error:
        raise MismatchError(
            f"the base that {name} was trained from is not found: {record}",
            f"Extract its vector first, naming the base: taskarith extract BASE {name}",
        ) from error
