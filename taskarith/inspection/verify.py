"""The verb `verify`: whether an output is still what was written, and was calculated rightly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from taskarith.checkpoints.digests import compare_folder, folder_files
from taskarith.checkpoints.provenance import PROVENANCE_NAME, read_provenance, record_is_sealed
from taskarith.checkpoints.sidecars import leads_out
from taskarith.errors import CheckpointError, TaskarithError, name_some
from taskarith.inspection.verification import Verification
from taskarith.inspection.verify_edit import verify_edit
from taskarith.inspection.verify_record import broken_record
from taskarith.inspection.verify_vector import verify_vector
from taskarith.progress import SILENT, Listener

__all__ = ["Verification", "verify"]

_OLD = "an earlier release wrote it"


def verify(path: str | Path, *, seed: int = 42, listener: Listener = SILENT) -> Verification:
    """Take all digests and fingerprints again, and calculate a sample of elements again from the recorded inputs.

    :param path: A task vector file, or a folder with ``taskarith.json``.
    :param seed: Where the samples are taken.
    :param listener: Receives progress updates.
    :raises CheckpointError: There is no record to compare with, or the files are broken.
    """
    place = Path(path)
    return verify_vector(place, seed, listener) if place.is_file() else _verify_folder(place, seed, listener)


def _verify_folder(place: Path, seed: int, listener: Listener) -> Verification:
    record = read_provenance(place) if place.is_dir() else None
    if record is None:
        raise CheckpointError(
            f"{place} has no {PROVENANCE_NAME} to compare with",
            "Give a folder that taskarith wrote, or a task vector file.",
        )
    kind, files, sealed = record.get("kind"), record.get("files"), record_is_sealed(place)
    if kind != "edit" and files is None:
        raise CheckpointError(
            f"the record of {place}, of kind {kind}, has neither digests of its files nor fingerprints of its tensors",
            "Only a folder that this release wrote, an output of apply, or a task vector file can be verified.",
        )
    with broken_record(place):
        recorded = None if files is None else {str(name): dict(one) for name, one in files.items()}
    changes = None if recorded is None else compare_folder(place, recorded, {PROVENANCE_NAME}, listener)
    found = Verification(
        place,
        str(kind),
        files=changes,
        is_record_changed=sealed is False or (sealed is None and files is not None),
        uncovered=(*_uncovered(record, sealed), *_links(place)),
    )
    if kind != "edit":
        return replace(found, unsampled=f"what is of kind {kind} is compared by the digests of its files alone")
    try:
        return verify_edit(found, record, seed, listener)
    except TaskarithError as error:
        if found.is_sound:
            raise
        return replace(found, unsampled=f"its weights cannot be read: {error.message}")


def _links(place: Path) -> tuple[str, ...]:
    """Say what is no file of the folder: what it leads to may be as recorded now, and not travel with the folder."""
    links = [name for name in folder_files(place) if not name.endswith("/") and leads_out(place, place / name)]
    return (f"links to files outside of the folder, which were written as files: {name_some(links)}",) if links else ()


def _uncovered(record: Mapping[str, Any], sealed: bool | None) -> tuple[str, ...]:
    files = "configuration, tokenizer, code, index and undo patch are not compared: the record has no digests of them"
    own = "nothing tells whether the record itself is as it was written: it has no digest of itself"
    missing = [*([files] if "files" not in record else []), *([own] if sealed is None else [])]
    return tuple(f"{one} ({_OLD})" for one in missing)
