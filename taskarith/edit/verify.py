"""The verb `verify`: whether an output is still what was written, and was calculated rightly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taskarith.arithmetic.folding import RUN
from taskarith.arithmetic.recipe import LowRank, Term
from taskarith.arithmetic.wide import decode, encode
from taskarith.checkpoints.checkpoint import Checkpoint, fingerprint_tensors, open_checkpoint
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.provenance import PROVENANCE_NAME, read_provenance
from taskarith.checkpoints.reader import TensorReader, combine_fingerprints
from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.calculation import Calculation, calculation
from taskarith.edit.enlarging import enlarged
from taskarith.edit.method import parse_method
from taskarith.edit.operands import open_operands
from taskarith.edit.plan import EditPlan, TensorPlan, plan_edit
from taskarith.edit.recipe import read_operand
from taskarith.edit.repeat import foreign_tensors
from taskarith.edit.verify_methods import merge_again
from taskarith.edit.verify_packed import damaged_blobs, sample_blobs
from taskarith.errors import CheckpointError, TaskarithError
from taskarith.progress import SILENT, Listener
from taskarith.spec import parse_scales
from taskarith.vectors.dense import DenseVector, VectorFile, header_json
from taskarith.vectors.form import BaseRecord, Packed
from taskarith.vectors.open import open_packed, recorded_base
from taskarith.vectors.packed import PackedFile
from taskarith.vectors.pair import PairVector
from taskarith.vectors.vocabulary import first_rows

__all__ = ["Verification", "verify"]

SAMPLE = RUN
"""Elements in a row that are calculated again of each tensor, from a multiple of them on that the seed chooses."""


@dataclass(frozen=True)
class Verification:
    """What was checked, and what was found.

    :param path: The folder or file.
    :param kind: edit or vector.
    :param tensors: Tensors whose fingerprint was taken again.
    :param damaged: Those whose content is not what was recorded, or that are missing or new.
    :param sampled: Elements calculated again in float64 with other code than they were written with, rounded once.
    :param wrong: Tensors with an element that differs from that.
    :param unsampled: Why nothing was calculated again; empty if it was.
    """

    path: Path
    kind: str
    tensors: int
    damaged: tuple[str, ...]
    sampled: int
    wrong: tuple[str, ...]
    unsampled: str

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return not self.damaged and not self.wrong


def verify(path: str | Path, *, seed: int = 42, listener: Listener = SILENT) -> Verification:
    """Take all fingerprints again, and calculate a sample of elements again from the recorded inputs.

    :param path: A task vector file, or a folder with ``taskarith.json``.
    :param seed: Where the samples are taken.
    :param listener: Told about progress.
    :raises CheckpointError: There is no record to compare with, or the files are broken.
    """
    place = Path(path)
    try:
        return _verify(place, seed, listener)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # of a record that somebody has changed
        raise CheckpointError(
            f"the record of {place} is broken: {error!r}", "Restore it from where it came."
        ) from error


def _verify(place: Path, seed: int, listener: Listener) -> Verification:
    if place.is_file():
        return _verify_vector(place, seed, listener)
    record = read_provenance(place) if place.is_dir() else None
    if record is None:
        raise CheckpointError(
            f"{place} has no {PROVENANCE_NAME} to compare with",
            "Give a folder that taskarith wrote, or a task vector file.",
        )
    if record.get("kind") != "edit":
        raise CheckpointError(
            f"{place} is a {record.get('kind')}; its record has no fingerprints of its tensors",
            "Give the output of apply, or a task vector file.",
        )
    return _verify_edit(place, record, seed, listener)


def _verify_edit(place: Path, record: Mapping[str, Any], seed: int, listener: Listener) -> Verification:
    with ExitStack() as scratch:
        return _compare_edit(place, record, seed, listener, scratch)


def _compare_edit(
    place: Path, record: Mapping[str, Any], seed: int, listener: Listener, scratch: ExitStack
) -> Verification:
    checkpoint = open_checkpoint(place)
    recorded = {name: str(tensor["fingerprint"]) for name, tensor in record["tensors"].items()}
    damaged = _damaged(checkpoint.tensors, recorded, listener)
    try:
        plan, own = _plan_again(record, listener, scratch)
        foreign = foreign_tensors(plan, str(record["base"]["fingerprint"]))
    except TaskarithError as error:
        return Verification(
            place, "edit", len(recorded), damaged, 0, (), f"the inputs cannot be opened: {error.message}"
        )
    if foreign:
        return Verification(place, "edit", len(recorded), damaged, 0, foreign, "")
    plans = {tensor.source.name: tensor for tensor in plan.tensors}
    if plans.keys() != recorded.keys():
        reason = "the base has changed since: it has other tensors"
        return Verification(place, "edit", len(recorded), damaged, 0, (), reason)
    whole = [
        entry
        for name, entry in checkpoint.tensors.items()
        if name not in damaged and entry.is_float and plans[name].action != "rescaled"
    ]
    merged = [] if plan.method.is_linear else [entry.name for entry in whole if plans[entry.name].terms]
    rest = [entry for entry in whole if entry.name not in set(merged)]
    sampled, wrong = _sample(rest, seed, lambda entry, *span: _edit_again(plan, plans[entry.name], *span))
    if merged:
        count, differ = merge_again(plan, checkpoint.tensors, merged, seed, listener)
        sampled, wrong = sampled + count, (*wrong, *differ)
    entries = {name: own.get(name, plans[name].source) for name in wrong}
    changed = [name for name in wrong if _print_again(entries[name]) != record["tensors"][name].get("base")]
    if changed:
        reason = f"the base has changed since, in {changed[0]}"
        return Verification(place, "edit", len(recorded), damaged, 0, (), reason)
    return Verification(place, "edit", len(recorded), damaged, sampled, wrong, "")


def _hub_name(record: Mapping[str, Any]) -> str:
    """Return a model as ``name`` or ``name@revision``."""
    return f"{record['name']}@{record['revision']}" if record.get("revision") else str(record["name"])


def _plan_again(
    record: Mapping[str, Any], listener: Listener, scratch: ExitStack
) -> tuple[EditPlan, Mapping[str, TensorEntry]]:
    """Return the plan, and the model's own tensors where new rows were put below them."""
    alpha = float(record["alpha"])
    checkpoint = open_checkpoint(resolve_model(_hub_name(record["base"]), listener).path)
    references = [read_operand(operand) for operand in record["operands"]]
    operands = open_operands(
        references,
        checkpoint,
        listener,
        parse_scales(record.get("scale", {})),
        shared_vocabulary=record.get("vocab") is not None,
        ignore_buffers=record.get("ignore_buffers", False),
    )
    method = parse_method(**record.get("method", {}))
    longer = scratch.enter_context(enlarged(checkpoint, operands, record.get("vocab")))
    return plan_edit(longer.base, operands, alpha, record.get("dtype"), method=method), longer.before


def _verify_vector(path: Path, seed: int, listener: Listener) -> Verification:
    is_packed = VectorFile(path).kind != "dense"
    vector = PackedFile(path) if is_packed else DenseVector(path)
    origin = vector.base or BaseRecord("")
    recorded = header_json(path, vector.metadata, "deltas")
    if not recorded:
        raise CheckpointError(f"{path} holds no fingerprints of its deltas", "Extract it again with this release.")
    entries = vector.entries
    if isinstance(vector, PackedFile):
        damaged = damaged_blobs(vector, recorded, listener)
    else:
        damaged = _damaged(entries, recorded, listener)
    if vector.kind == "quantised":
        reason = "quantised deltas are compared by their fingerprints alone"
        return Verification(path, "vector", len(recorded), damaged, 0, (), reason)
    finetuned = header_json(path, vector.metadata, "finetuned")
    if "combination" in finetuned:
        reason = "it is a combination of vectors, which are not read again"
        return Verification(path, "vector", len(recorded), damaged, 0, (), reason)
    try:
        base, tuned = _sides(path, finetuned, listener)
        how = {
            "ignore_buffers": "ignored_buffers" in vector.metadata,
            "shared_vocabulary": "base_rows" in vector.metadata,
        }
        pair = PairVector(base, tuned, origin, **how)
        opened = open_packed(path, listener) if is_packed else None
    except TaskarithError as error:
        reason = f"base and fine-tune cannot be opened: {error.message}"
        return Verification(path, "vector", len(recorded), damaged, 0, (), reason)

    def again(entry: TensorEntry, start: int, stop: int) -> bytes:
        both = pair.delta(entry.name)
        with TensorReader() as reader:
            sides = [_elements(side, start, stop, reader) for side in (both.finetuned, both.base)]
        return encode(sides[0] - sides[1], entry.dtype)

    whole = [name for name in entries if name not in damaged]
    if opened is not None:
        sampled, wrong = sample_blobs(opened, whole, pair, seed, SAMPLE)
    else:
        shared = [
            first_rows(entries[name], pair.shapes[name][0]) if entries[name].shape else entries[name] for name in whole
        ]
        sampled, wrong = _sample(shared, seed, again)
    if wrong and origin.fingerprint != combine_fingerprints(fingerprint_tensors(base, listener)):
        return Verification(path, "vector", len(recorded), damaged, 0, (), "the base has changed since")
    return Verification(path, "vector", len(recorded), damaged, sampled, wrong, "")


def _sides(path: Path, finetuned: Mapping[str, Any], listener: Listener) -> tuple[Checkpoint, Checkpoint]:
    """Open the base and the fine-tune that a vector records."""
    recorded = recorded_base(str(path), listener)
    if recorded is None:
        raise CheckpointError(f"{path} does not name its base", "Extract it again.")
    base = open_checkpoint(recorded.locate(listener).path)
    return base, open_checkpoint(resolve_model(_hub_name(finetuned), listener).path)


def _damaged(entries: Mapping[str, TensorEntry], recorded: Mapping[str, str], listener: Listener) -> tuple[str, ...]:
    found = []
    with TensorReader() as reader:
        for index, name in enumerate(sorted(entries.keys() | recorded.keys())):
            listener.progress("verifying", index, len(recorded))
            if name not in entries or name not in recorded or reader.fingerprint(entries[name]) != recorded[name]:
                found.append(name)
    return tuple(found)


def _sample(
    entries: list[TensorEntry], seed: int, again: Callable[[TensorEntry, int, int], bytes]
) -> tuple[int, tuple[str, ...]]:
    """Compare a run of elements of each tensor, bit by bit, with what ``again`` calculates."""
    generator = np.random.default_rng(seed)
    count, wrong = 0, []
    with TensorReader() as reader:
        for entry in entries:
            start = SAMPLE * int(generator.integers(0, max(1, -(-entry.elements // SAMPLE))))
            stop = min(entry.elements, start + SAMPLE)
            size = ITEM_SIZES[entry.dtype]
            if bytes(reader.read(entry, start * size, stop * size)) != again(entry, start, stop):
                wrong.append(entry.name)
            count += stop - start
    return count, tuple(wrong)


def _edit_again(plan: EditPlan, tensor: TensorPlan, start: int, stop: int) -> bytes:
    """Evaluate base + sum of terms with numpy, in the order of the values, rounded once."""
    what = calculation(plan, tensor)
    with TensorReader() as reader:
        if tensor.action == "copied":
            size = ITEM_SIZES[tensor.dtype]
            return bytes(reader.read(tensor.source, start * size, stop * size))
        stored = _inputs(what, start, stop, reader)
        if what.result is not None:
            return bytes(stored[what.result])
        inputs = [decode(data, entry.dtype) for data, entry in zip(stored, what.inputs, strict=True)]
        if not what.recipe.terms:
            return encode(inputs[0], tensor.dtype)
    terms = np.sort([_term(term, inputs, start, stop) for term in what.recipe.terms], axis=0)
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return encode(np.where(total == 0, inputs[0], inputs[0] + total), tensor.dtype)


def _term(term: Term, inputs: list[np.ndarray], start: int, stop: int) -> np.ndarray:
    if isinstance(term.plus, LowRank):
        row, column = np.divmod(np.arange(start, stop), term.plus.right.shape[1])
        total = np.zeros(stop - start)
        rank = term.plus.left.shape[1]
        above = row // (len(term.plus.left) // term.plus.blocks) * rank
        for index in range(rank):
            total += term.plus.left[row, index] * term.plus.right[above + index, column]
        return term.coefficient * (total * term.plus.scale)
    delta = inputs[term.plus] if term.minus is None else inputs[term.plus] - inputs[term.minus]
    return term.coefficient * delta


def _inputs(what: Calculation, start: int, stop: int, reader: TensorReader) -> list[bytearray]:
    stored: list[bytearray] = []
    for index, entry in enumerate(what.inputs):
        size = ITEM_SIZES[entry.dtype]
        if isinstance(entry, Packed):
            data, stream, origin = bytearray((stop - start) * size), entry.open(reader), what.against.get(index)
            stream.skip(start)
            stream.fill(memoryview(data), None if origin is None else memoryview(stored[origin]))
        else:
            rows_end = min(stop * size, entry.nbytes)  # a smaller vocabulary is filled up with zeros
            data = reader.read(entry, min(start * size, rows_end), rows_end).ljust((stop - start) * size, b"\0")
        stored.append(data)
    return stored


def _elements(entry: TensorEntry, start: int, stop: int, reader: TensorReader) -> np.ndarray:
    size = ITEM_SIZES[entry.dtype]
    return decode(reader.read(entry, start * size, stop * size), entry.dtype)


def _print_again(entry: TensorEntry) -> str:
    with TensorReader() as reader:
        return reader.fingerprint(entry)
