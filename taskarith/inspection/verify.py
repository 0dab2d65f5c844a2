"""The verb `verify`: check that an output is unchanged and was calculated correctly."""

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
from taskarith.vectors.locate import is_on_hub, locate_vector

__all__ = ["Verification", "verify"]

_OLD_RELEASE = "written by an earlier release"


def verify(path: str | Path, *, seed: int = 42, listener: Listener = SILENT) -> Verification:
    """Recompute all digests and fingerprints, and a sample of elements from the recorded inputs.

    :param path: A task vector file, or a folder with ``taskarith.json``; of the hub ``ORG/NAME`` or
        ``ORG/NAME:FILE.safetensors``, with ``@REVISION`` where it is not the latest.
    :param seed: Seed of the samples.
    :param listener: Receives progress updates.
    :raises CheckpointError: There is no record, the files are broken, or the hub does not have them.
    """
    target = locate_vector(str(path), listener) if is_on_hub(str(path)) else Path(path)
    return verify_vector(target, seed, listener) if target.is_file() else _verify_folder(target, seed, listener)


def _verify_folder(path: Path, seed: int, listener: Listener) -> Verification:
    if not path.exists():
        raise CheckpointError(f"there is no folder or file {path}", "Check the path.")
    record = read_provenance(path) if path.is_dir() else None
    if record is None:
        raise CheckpointError(
            f"{path} does not contain {PROVENANCE_NAME}",
            "Give a folder that taskarith wrote, or a task vector file.",
        )
    kind, files, sealed = record.get("kind"), record.get("files"), record_is_sealed(path)
    parts = [inner.name for inner in sorted(path.iterdir()) if (inner / PROVENANCE_NAME).is_file()]
    if kind != "edit" and files is None and parts:
        raise CheckpointError(
            f"the record of {path}, of kind {kind}, lists no files: its parts have records of their own",
            f"Check {name_some(parts)} one by one: taskarith verify {path / parts[0]}",
        )
    if kind != "edit" and files is None:
        raise CheckpointError(
            f"the record of {path}, of kind {kind}, has neither digests of files nor fingerprints of tensors",
            "Give a folder written by this release, an output of apply, or a task vector file.",
        )
    with broken_record(path):
        recorded = None if files is None else {str(name): dict(digest) for name, digest in files.items()}
    changes = None if recorded is None else compare_folder(path, recorded, {PROVENANCE_NAME}, listener)
    result = Verification(
        path,
        str(kind),
        files=changes,
        is_record_changed=sealed is False or (sealed is None and files is not None),
        uncovered=(*_uncovered(record, sealed), *_links(path)),
    )
    if kind != "edit":
        return replace(result, unsampled=f"a folder of kind {kind} is compared by the digests of its files only")
    try:
        return verify_edit(result, record, seed, listener)
    except TaskarithError as error:
        if result.is_sound:
            raise
        return replace(result, unsampled=f"its weights cannot be read: {error.message}")


def _links(path: Path) -> tuple[str, ...]:
    """Return a remark on links out of the folder, whose targets do not travel with it."""
    links = [name for name in folder_files(path) if not name.endswith("/") and leads_out(path, path / name)]
    return (f"links to files outside the folder replace files that were written: {name_some(links)}",) if links else ()


def _uncovered(record: Mapping[str, Any], sealed: bool | None) -> tuple[str, ...]:
    files = (
        "configuration, tokenizer, code, index and undo patch are not compared, since the record has no digests of them"
    )
    own = "changes of the record itself cannot be detected, since it has no digest of itself"
    missing = [*([files] if "files" not in record else []), *([own] if sealed is None else [])]
    return tuple(f"{remark} ({_OLD_RELEASE})" for remark in missing)
