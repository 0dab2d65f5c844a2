"""From what a user calls a vector to an opened one: a vector file, an adapter folder, a fine-tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from taskarith.checkpoints.checkpoint import Checkpoint, is_adapter, open_checkpoint
from taskarith.checkpoints.provenance import read_provenance
from taskarith.checkpoints.resolve import resolve_model
from taskarith.errors import MismatchError, UsageError, VectorError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.spec import OperandRef, parse_model
from taskarith.vectors.bases import ChosenBase, OwnBase, RecordedBase, find_own_base, is_same_folder, name_own_base
from taskarith.vectors.file import WEIGHTS, DenseVector, VectorFile
from taskarith.vectors.locate import locate_vector
from taskarith.vectors.lora.adapter import AdapterVector, adapter_base
from taskarith.vectors.lora.read import Adapter, read_adapter
from taskarith.vectors.pair import PairVector
from taskarith.vectors.vector import BaseRecord, Vector

__all__ = [
    "CommonBase",
    "OpenedVector",
    "choose_base",
    "open_packed",
    "open_vector",
    "open_weights",
    "recorded_base",
]


@dataclass(frozen=True)
class CommonBase:
    """What a command lets the user say about the base of all vectors.

    :param option: The option that names it; empty where there is none.
    :param is_model: Whether the model at hand was named by that option.
    """

    option: str = ""
    is_model: bool = False


@dataclass(frozen=True)
class OpenedVector:
    """A vector, and the model that it is a difference to, where its deltas are taken against that.

    :param vector: The vector.
    :param own: Of a fine-tune, an exact vector, and an adapter that holds more than factors; else None.
    """

    vector: Vector
    own: OwnBase | None = None


def open_vector(
    reference: OperandRef,
    model: Checkpoint,
    listener: Listener = SILENT,
    *,
    common: CommonBase | None = None,
    shared_vocabulary: bool = False,
    ignore_buffers: bool = False,
) -> OpenedVector:
    """Open a vector that is to be applied to a model.

    The delta of a fine-tune is taken against the base that the user names with it, or that it records; see ``bases``.

    :param reference: A ``.safetensors`` task vector, a LoRA folder, or a fine-tuned model (folder or hub id).
    :param model: The checkpoint to be edited.
    :param listener: Receives notes about downloads and models that are read.
    :param common: What the user has said about the base of all vectors.
    :param shared_vocabulary: Accept a fine-tune with a vocabulary of another size; see ``PairVector``.
    :param ignore_buffers: Leave out buffers that only one of a fine-tune and its base has.
    :raises UsageError: Nothing says what a fine-tune is a difference to.
    :raises VectorError: There is no such vector, or it is of a kind that cannot be used.
    :raises MismatchError: It does not fit the model, or its base is not found.
    """
    path = locate_vector(reference.name, listener)
    common = common or CommonBase()
    recorded = recorded_base(reference.name, listener)
    if recorded is not None:
        recorded = replace(recorded, hint=_hint(reference, common, None if recorded.base.fingerprint else model))
    if path.is_file():
        return _open_file(path, reference, recorded, model, listener)
    if is_adapter(path):
        return _open_adapter(path, reference, recorded, model, common, listener)
    own = _own_base(reference, recorded, model, common, listener)
    if own is None:
        raise _without_base(reference, "does not record its base", model, common)
    if reference.base and is_same_folder(own.checkpoint.path, path):
        raise UsageError(f"{reference.name} is given as its own base", "Name the model that it was trained from.")
    pair = PairVector(
        own.checkpoint,
        open_checkpoint(path),
        own.record,
        shared_vocabulary=shared_vocabulary,
        ignore_buffers=ignore_buffers,
    )
    return OpenedVector(pair, own)


def open_weights(name: str) -> Vector:
    """Open a file with a weight for each parameter.

    :raises VectorError: There is none, or it is something else.
    """
    if not Path(name).is_file():
        raise VectorError(f"there is no file {name}", "Make one: taskarith importance MODEL --forget ... --retain ...")
    return DenseVector(Path(name), WEIGHTS)


def open_packed(path: Path, listener: Listener = SILENT) -> Vector:
    """Open a packed vector file alone, to look into it.

    :raises VectorError: It is not a vector, or its header is broken.
    :raises CheckpointError: It is exact, and what lies at the recorded place is broken.
    :raises MismatchError: It is exact, and the base that it records is not found.
    """
    recorded = recorded_base(str(path), listener, hint="Restore the base that the vector was made from.")
    if VectorFile(path).kind != "exact" or recorded is None:
        return _packed(path)
    base = open_checkpoint(recorded.locate(listener).path)
    recorded.glance(base)
    return _packed(path, base)


def recorded_base(name: str, listener: Listener = SILENT, *, hint: str = "") -> RecordedBase | None:
    """Return the base that a vector, an adapter or a fine-tuned folder records, or None.

    :param hint: What to type where it is not found.
    """
    path = locate_vector(name, listener)
    if path.is_file():
        record = VectorFile(path).base
    else:
        record = BaseRecord.from_json((read_provenance(path) or {}).get("base"))
        if record is None and is_adapter(path):
            record = adapter_base(path)
    return None if record is None else RecordedBase(name, record, path if path.is_dir() else path.parent, hint)


def choose_base(
    named: str | None, references: Sequence[OperandRef], hint: str, listener: Listener = SILENT
) -> ChosenBase:
    """Return the model that is named, or else the first base that one of some vectors is given with or records.

    :param hint: What to type where there is none, or it is not found.
    :raises UsageError: None is named and none recorded.
    :raises MismatchError: What is recorded is not found.
    """
    if named is not None:
        return ChosenBase(resolve_model(named, listener))
    for reference in references:
        if reference.base:
            return ChosenBase(resolve_model(reference.base, listener))
        if (recorded := recorded_base(reference.name, listener, hint=hint)) is not None:
            return ChosenBase(recorded.locate(listener), recorded, is_named=False)
    owners = name_some([reference.name for reference in references])
    raise UsageError(f"{owners} {'does not record its' if len(references) == 1 else 'do not record their'} base", hint)


def _open_file(
    path: Path, reference: OperandRef, recorded: RecordedBase | None, model: Checkpoint, listener: Listener
) -> OpenedVector:
    if VectorFile(path).kind == "exact" and recorded is not None:
        if reference.base:  # says where to look; the fingerprint decides
            place = parse_model(reference.base)
            recorded = replace(recorded, base=replace(recorded.base, name=place.name, revision=place.revision))
        own = find_own_base(recorded, model, listener)
        return OpenedVector(_packed(path, own.checkpoint), own)
    if reference.base and not reference.base_fingerprint:
        raise UsageError(
            f"{path} is a task vector: what it is a difference to does not change with {reference.base}",
            f"Leave out @@{reference.base}; only fine-tunes, adapters and exact vectors are read against a base.",
        )
    return OpenedVector(_packed(path))


def _open_adapter(
    path: Path,
    reference: OperandRef,
    recorded: RecordedBase | None,
    model: Checkpoint,
    common: CommonBase,
    listener: Listener,
) -> OpenedVector:
    """Open an adapter; what it holds beside factors is a difference to its own base, whatever it is applied to."""
    adapter, own = read_adapter(path), None
    record = recorded.base if recorded else None
    if more := _more_than_factors(adapter):
        own = _own_base(reference, recorded, model, common, listener)
        if own is None:
            raise _without_base(reference, f"holds {more} beside factors and names no base", model, common)
    elif adapter.copies:  # they are only compared with a base: where its own is not found, with the model at hand
        with suppress(MismatchError):
            own = _own_base(reference, recorded, model, common, listener)
        return OpenedVector(AdapterVector(path, model, record, own.checkpoint if own else None, listener))
    return OpenedVector(AdapterVector(path, model, record, own.checkpoint if own else None, listener), own)


def _packed(path: Path, base: Checkpoint | None = None) -> Vector:
    match VectorFile(path).kind:
        case "exact" if base is not None:
            from taskarith.vectors.codecs.exact import ExactVector

            return ExactVector(path, base)
        case "sparse":
            from taskarith.vectors.codecs.sparse import SparseVector

            return SparseVector(path)
        case "quantised":
            from taskarith.vectors.codecs.quantised import QuantisedVector

            return QuantisedVector(path)
    return DenseVector(path)


def _own_base(
    reference: OperandRef, recorded: RecordedBase | None, model: Checkpoint, common: CommonBase, listener: Listener
) -> OwnBase | None:
    """Return the model that an operand is a difference to; None where nothing names it."""
    itself = OwnBase(model, BaseRecord(str(model.path)), is_model=True, is_named=True)
    if reference.against_model:
        return itself
    if reference.base and reference.base_fingerprint:
        place = parse_model(reference.base)
        record = BaseRecord(place.name, place.revision, reference.base_fingerprint)
        folder = recorded.folder if recorded else Path()
        hint = _hint(reference, common, None)
        return find_own_base(RecordedBase(reference.name, record, folder, hint), model, listener)
    if reference.base:
        return name_own_base(resolve_model(reference.base, listener), model, recorded, listener)
    if recorded is None:
        return itself if common.is_model else None
    try:
        return find_own_base(recorded, model, listener)
    except MismatchError:
        if common.is_model and not recorded.base.fingerprint:
            return itself
        raise


def _more_than_factors(adapter: Adapter) -> str:
    """Say what of an adapter is a difference to its own base; empty if nothing is."""
    found = {
        "whole tensors": adapter.whole,
        "trained tokens": adapter.tokens,
        "DoRA": [pair for pairs in adapter.factors.values() for pair in pairs if pair.magnitude is not None],
    }
    return ", ".join(what for what, held in found.items() if held)


def _without_base(reference: OperandRef, why: str, model: Checkpoint, common: CommonBase) -> UsageError:
    if common.option:
        return UsageError(f"{reference.name} {why}", _hint(reference, common, None))
    what = f"{reference.name} {why}, and nothing says that it was made from {model.path}"
    return UsageError(what, _hint(reference, common, model))


def _hint(reference: OperandRef, common: CommonBase, model: Checkpoint | None) -> str:
    """Say how the base of a vector is named; ``model``: the one at hand, unless it is known to be another."""
    if common.option:
        return f"Name it: {replace(reference, base='BASE')}, or for all vectors: {common.option} BASE"
    another = reference.option("BASE")
    if model is None:
        return f"Name the base where it lies now: {another}"
    itself = reference.option(str(model.path))
    return f"If {model.path} is its base: {itself}; if another model is, where it lies: {another}"
