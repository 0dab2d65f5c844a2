"""The verb `clean`: remove from a run of `unlearn` what holds the forgotten text, or gives it back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.checkpoints.lock import check_unlocked
from taskarith.checkpoints.ownership import foreign_entries
from taskarith.checkpoints.places import absolute_name
from taskarith.checkpoints.provenance import amend_record, read_provenance
from taskarith.checkpoints.rooms import WORK, work_folder
from taskarith.errors import OutputError, UsageError
from taskarith.tidy import Brief
from taskarith.unlearning.task import KIND

__all__ = ["CleanResult", "clean"]

_VECTORS = ("forget.safetensors", "forget", "learned-forget")
"""The vector of the text, and the fine-tune that it comes from."""
_MEASURED = ("before", "relation", "sweep", "after", "attack")
_QUOTING = ("records.jsonl", "report.html")
"""Files of measurements that have the text word for word."""


@dataclass(frozen=True, repr=False)
class CleanResult(Brief):
    """What was removed from a run.

    :param path: Folder of the run.
    :param removed: What was removed, or would be.
    :param nbytes: Its size.
    :param remaining: What lies elsewhere and still holds the text, as the run's records name it.
    """

    path: Path
    removed: tuple[Path, ...]
    nbytes: int
    remaining: tuple[str, ...]

    def _brief(self) -> Mapping[str, object]:
        return {"path": self.path, "removed": len(self.removed), "nbytes": self.nbytes}

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        removed, remaining = [str(path) for path in self.removed], list(self.remaining)
        return {"path": str(self.path), "removed": removed, "nbytes": self.nbytes, "remaining": remaining}


def clean(run: str | Path, *, forget_data: bool = False, dry_run: bool = False) -> CleanResult:
    """Remove from a run of ``unlearn`` what holds the forgotten text, or gives it back.

    These are the vector of the text and the fine-tune it comes from (with the base they give the text back), the
    records of what models were asked and answered, and the pages that quote them. The edited model, the numbers and
    the pictures stay. The run cannot be gone on with afterwards.

    :param run: Folder of the run.
    :param forget_data: Has to be true: nothing is removed by accident.
    :param dry_run: Only tell what would be removed.
    :raises UsageError: ``forget_data`` is not set.
    :raises OutputError: The folder is not of a run of ``unlearn``, is in use, or holds something else in the place of
        what would be removed.
    """
    folder = Path(run)
    if not forget_data:
        raise UsageError("clean is not told what to remove", "Add --forget-data; --dry-run only lists it.")
    if (read_provenance(folder) or {}).get("kind") != KIND:
        raise OutputError(f"{folder} is not the folder of a run of unlearn", "Name the folder given to unlearn by -o.")
    found = [path for path in _holding(folder) if path.exists() or path.is_symlink()]
    _check(folder, found)
    remaining, nbytes = tuple(_elsewhere(folder)), sum(map(_size, found))
    if not dry_run:
        amend_record(folder, lambda record: {**record, "cleaned": True})  # first: a torn clean is done again
        for path in found:
            _remove(path)
        for name in _MEASURED:
            if read_provenance(folder / name) is not None:
                amend_record(folder / name, _without_quotes)
    return CleanResult(folder, tuple(found), nbytes, remaining)


def _holding(folder: Path) -> Iterator[Path]:
    """Yield the places of all that may hold the text, those of runs that were stopped included."""
    yield from (folder / name for name in _VECTORS)
    yield from (folder / name / file for name in _MEASURED for file in _QUOTING)
    yield folder / "report.html"
    yield from (work_folder(folder / name, what) for name in (*_VECTORS, *_MEASURED) for what in WORK)


def _without_quotes(record: dict[str, Any]) -> dict[str, Any]:
    """Move the entries of the files that are removed from ``files`` to ``removed``, so that none seems to be lost."""
    files = record["files"] if isinstance(record.get("files"), dict) else {}
    moved = {name: entry for name, entry in files.items() if name in _QUOTING}
    if not moved:
        return record
    left = {name: entry for name, entry in files.items() if name not in moved}
    return {**record, "files": left, "removed": moved}


def _check(folder: Path, found: list[Path]) -> None:
    """Refuse broken records, what another process works on, and what taskarith did not write."""
    for name in _MEASURED:
        read_provenance(folder / name)
    for path in found:
        if path.name.startswith("."):
            check_unlocked(path, folder)
        elif path.is_symlink() or (path.name in _VECTORS and foreign_entries(path)):
            named = path if path.is_symlink() else path / foreign_entries(path)[0]
            raise OutputError(
                f"{named} was not written by taskarith, or was changed since", "Move it away: nothing was removed."
            )


def _elsewhere(folder: Path) -> Iterator[str]:
    """Yield what lies elsewhere and holds the text."""
    record = read_provenance(folder / "before") or {}
    data = record.get("data")
    text = data.get("forget") if isinstance(data, dict) else None
    if isinstance(text, dict) and isinstance(spec := text.get("spec"), str):
        yield f"the text itself: {absolute_name(spec, folder / 'before')}"
    yield "the model that was edited, the caches of data sets, and every copy or backup of what was removed"


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise OutputError(
            f"cannot remove {path}: {error.strerror}", "Mend that; the same command removes the rest."
        ) from error


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(file.lstat().st_size for file in files)
