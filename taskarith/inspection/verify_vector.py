"""Verify a task vector file, against its record and against its base and fine-tune."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from taskarith.arithmetic.encoding import encode
from taskarith.checkpoints.checkpoint import Checkpoint, fingerprint_tensors, open_checkpoint
from taskarith.checkpoints.header import TensorEntry, header_is_sealed
from taskarith.checkpoints.reader import TensorReader, combine_fingerprints
from taskarith.checkpoints.resolve import resolve_model
from taskarith.errors import CheckpointError, TaskarithError, name_some
from taskarith.inspection.verification import Verification
from taskarith.inspection.verify_packed import compare_deltas, damaged_deltas
from taskarith.inspection.verify_record import broken_record
from taskarith.inspection.verify_sample import SAMPLE, compare_samples, damaged_tensors, elements
from taskarith.progress import Listener
from taskarith.vectors.codecs.block_file import PackedFile
from taskarith.vectors.file import DenseVector, VectorFile, header_json
from taskarith.vectors.open import open_packed, recorded_base
from taskarith.vectors.pair import PairVector
from taskarith.vectors.vector import BaseRecord
from taskarith.vectors.vocabulary import first_rows

__all__ = ["verify_vector"]


def verify_vector(path: Path, seed: int, listener: Listener) -> Verification:
    """Recompute all fingerprints of a vector, and compare a sample of its deltas with its base and fine-tune.

    :param path: The file.
    :param seed: Seed of the samples.
    :param listener: Receives progress updates.
    :raises CheckpointError: It is not a valid safetensors file, or has no fingerprints.
    :raises VectorError: It is not a task vector.
    """
    vector = PackedFile(path) if VectorFile(path).kind != "dense" else DenseVector(path)
    recorded = header_json(path, vector.metadata, "deltas")
    if not recorded:
        raise CheckpointError(f"{path} has no fingerprints of its deltas", "Extract it again with this release.")
    if isinstance(vector, PackedFile):
        damaged = damaged_deltas(vector, recorded, listener)
    else:
        damaged = damaged_tensors(vector.entries, recorded, listener)
    sealed = header_is_sealed(path, vector.metadata)
    result = Verification(
        path,
        "vector",
        len(recorded),
        damaged,
        is_record_changed=sealed is False,
        uncovered=(_UNSEALED,) if sealed is None else (),
    )
    if vector.kind == "quantised":
        return replace(result, unsampled="quantised deltas are compared by their fingerprints only")
    finetuned = header_json(path, vector.metadata, "finetuned")
    if "combination" in finetuned:
        return replace(result, unsampled="it is a combination of vectors, which are not recomputed")
    try:
        base, tuned = _sides(path, finetuned, listener)
        sampled, wrong = _compare(vector, base, tuned, damaged, seed, listener)
    except TaskarithError as error:
        return replace(result, unsampled=f"base and fine-tune cannot be opened: {error.message}")
    reasons = []
    if wrong:
        now, before = fingerprint_tensors(base, listener), (vector.base or BaseRecord("")).tensors
        changed = [name for name in wrong if now.get(name) != before.get(name)]
        reasons += [f"the base has changed since, in {name_some(changed)}"] if changed else []
        wrong = tuple(name for name in wrong if name not in changed)
    if wrong and finetuned.get("fingerprint") != combine_fingerprints(fingerprint_tensors(tuned, listener)):
        wrong, reasons = (), [*reasons, "the fine-tune has changed since"]
    return replace(result, sampled=sampled, wrong=wrong, unsampled="; ".join(reasons))


def _compare(
    vector: PackedFile | DenseVector,
    base: Checkpoint,
    tuned: Checkpoint,
    damaged: tuple[str, ...],
    seed: int,
    listener: Listener,
) -> tuple[int, tuple[str, ...]]:
    """Compare a sample of each undamaged delta with the difference of both sides."""
    pair = PairVector(
        base,
        tuned,
        vector.base or BaseRecord(""),
        ignore_buffers="ignored_buffers" in vector.metadata,
        shared_vocabulary="base_rows" in vector.metadata,
    )
    whole = [name for name in vector.entries if name not in damaged]
    if isinstance(vector, PackedFile):
        return compare_deltas(open_packed(vector.files[0], listener), whole, pair, seed, SAMPLE)

    def again(entry: TensorEntry, start: int, stop: int) -> bytes:
        both = pair.delta(entry.name)
        with TensorReader() as reader:
            sides = [elements(side, start, stop, reader) for side in (both.finetuned, both.base)]
        return encode(sides[0] - sides[1], entry.dtype)

    entries = [vector.entries[name] for name in whole]
    shared = [first_rows(entry, pair.shapes[entry.name][0]) if entry.shape else entry for entry in entries]
    return compare_samples(shared, seed, again)


_UNSEALED = (
    "changes of its header (base, fine-tune, command) cannot be detected, since it has no digest of itself "
    "(written by an earlier release)"
)


def _sides(path: Path, finetuned: Mapping[str, Any], listener: Listener) -> tuple[Checkpoint, Checkpoint]:
    """Open the base and the fine-tune that a vector records."""
    recorded = recorded_base(str(path), listener)
    if recorded is None:
        raise CheckpointError(f"{path} does not name its base", "Extract it again.")
    with broken_record(path):
        tuned = str(BaseRecord.named(finetuned))
    return open_checkpoint(recorded.locate(listener).path), open_checkpoint(resolve_model(tuned, listener).path)
