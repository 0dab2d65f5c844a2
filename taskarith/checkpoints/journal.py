"""The journal of a run: what is already written, so that a run that was killed goes on where it stopped.

It lies in a folder that anybody may have written. So nothing is opened through a link, a line counts only if it was
written for this plan and is whole, and what it says is compared with the plan and with the output.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.provenance import PROVENANCE_NAME
from taskarith.checkpoints.reader import TensorReader, fingerprint_bytes
from taskarith.progress import Listener

__all__ = ["Journal", "are_fingerprints", "count_pieces", "is_own_file", "other_run", "remove"]

_LONGEST = 1 << 28
"""Bytes of a journal that are read: some 200 a tensor."""


class Journal:
    """Lines of JSON, one a finished piece of work; the first names the plan that they belong to.

    A line that was cut off by a crash is ignored. What a line claims must be checked against the output before it is
    believed: after a power failure the journal may be on disk and the data not.

    :param path: The file.
    :param plan: Fingerprint of everything that decides the output; another plan's journal counts as none.
    :param run: What the plan is the fingerprint of, where that is to be looked up: see ``other_run``. Such journals
        may be of any length.
    """

    def __init__(self, path: Path, plan: str, run: Mapping[str, Any] | None = None) -> None:
        self._lock, self._synced = threading.Lock(), 0.0
        found = _read(path, plan, _LONGEST if run is None else None)
        self.goes_on = found is not None
        self.done: dict[str, dict[str, Any]] = found or {}
        self._plan, self._path = plan, path
        how = os.O_APPEND
        if found is None:
            remove(path)
            how = os.O_CREAT | os.O_EXCL
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | how, 0o666)
        self._file = os.fdopen(descriptor, "w", encoding="utf-8")
        first = {"plan": plan} | ({} if run is None else {"run": run})
        try:
            self._file.write("\n" if self.goes_on else json.dumps(first) + "\n")
            self._file.flush()
        except OSError:
            with suppress(OSError):  # what could not be written, once more
                self._file.close()
            raise

    def record(self, name: str, entry: dict[str, Any]) -> None:
        """Append one finished piece."""
        with self._lock:
            self.done[name] = entry
            self._file.write(json.dumps({"name": name, **entry, "check": _check(self._plan, name, entry)}) + "\n")
            self._file.flush()

    def adopt(self, path: Path) -> None:
        """Take over what another process has written into a journal of the same plan."""
        for name, entry in (_read(path, self._plan, _LONGEST) or {}).items():
            self.record(name, entry)

    def intact(
        self,
        places: Iterable[TensorEntry],
        listener: Listener,
        fits: Callable[[TensorEntry, Mapping[str, Any]], bool],
    ) -> set[str]:
        """Return which finished tensors are indeed in the output, and forget all others.

        :param places: The tensors of the output.
        :param listener: Receives progress updates.
        :param fits: Tells whether what is noted of a tensor can have been noted by this plan.
        """
        claimed = [one for one in places if one.name in self.done and fits(one, self.done[one.name])]
        found = {}
        with TensorReader() as reader:
            for index, place in enumerate(claimed):
                listener.progress("checking what an earlier run has finished", index, len(claimed))
                if self.done[place.name].get("output") == reader.fingerprint(place):
                    found[place.name] = self.done[place.name]
        self.done = found
        return set(found)

    def sync(self, after: float = 0.0) -> None:
        """Put on disk what is noted, for other machines to see; not where it was done less than some seconds ago."""
        if time.monotonic() - self._synced < after:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def retire(self) -> None:
        """Close the journal and take it off its place, on disk: the next run starts anew."""
        self.close()
        if self._path.exists():
            self._path.replace(self._retired)

    def bring_back(self) -> None:
        """Undo ``retire``: the next run goes on."""
        if self._retired.exists():
            self._retired.replace(self._path)

    @property
    def _retired(self) -> Path:
        return self._path.with_name("old-journal.jsonl")

    def close(self) -> None:
        """Close the file."""
        if not self._file.closed:
            try:
                self.sync()
            finally:
                self._file.close()


def are_fingerprints(*values: object) -> bool:
    """Tell whether all values are fingerprints: 32 hex digits."""
    return all(isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value) for value in values)


def is_own_file(path: Path) -> bool:
    """Tell whether a path is a regular file that has no other name: writing it changes nothing elsewhere."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there; nothing is removed through a link.

    The record of an output goes last: if that is stopped, what is left is still known as one.
    """
    if path.is_dir() and not path.is_symlink():
        for entry in path.iterdir():
            if entry.name != PROVENANCE_NAME:
                remove(entry)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def count_pieces(path: Path) -> int:
    """Return how many finished pieces a journal names, whosever they are."""
    lines = path.read_bytes().split(b"\n") if is_own_file(path) else []
    return sum(line.endswith(b"}") for line in lines[1:-1])  # the last one was cut off, or is empty


def other_run(path: Path, plan: str) -> dict[str, Any] | None:
    """Return what run a journal is of, as it says itself, if that is another one than the plan's; empty if unknown."""
    if not is_own_file(path):
        return None
    with path.open("rb") as file:
        first = _parse(file.readline(_LONGEST))
    if first.get("plan") == plan:
        return None
    run = first.get("run")
    return run if isinstance(run, dict) else {}


def _read(path: Path, plan: str, longest: int | None) -> dict[str, dict[str, Any]] | None:
    """Return the finished pieces of a journal, or None if there is none of this plan."""
    if not plan or not is_own_file(path) or (longest is not None and path.stat().st_size > longest):
        return None
    lines = path.read_bytes().split(b"\n")
    if _parse(lines[0]).get("plan") != plan:
        return None
    found = {}
    for entry in map(_parse, lines[1:]):
        name, check = entry.pop("name", None), entry.pop("check", None)
        if isinstance(name, str) and check == _check(plan, name, entry):
            found[name] = entry
    return found


def _check(plan: str, name: str, entry: Mapping[str, Any]) -> str:
    """Return what shows that a line is whole and was written for a plan."""
    return fingerprint_bytes(json.dumps([plan, name, entry], sort_keys=True).encode())


def _parse(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}
