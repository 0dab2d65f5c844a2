"""The journal of a run: what is already written, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.progress import Listener

__all__ = ["Journal"]


class Journal:
    """Lines of JSON, one a finished piece of work; the first names the plan that they belong to.

    A line that was cut off by a crash is ignored. What a line claims must be checked against the output before it is
    believed: after a power failure the journal may be on disk and the data not.

    :param path: The file.
    :param plan: Fingerprint of everything that decides the output; another plan's journal counts as none.
    """

    def __init__(self, path: Path, plan: str) -> None:
        self.done: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        found = _read(path, plan)
        self.goes_on = found is not None
        self.done.update(found or {})
        self._plan = plan
        self._file = path.open("a" if self.goes_on else "w", encoding="utf-8")
        self._file.write("\n" if self.goes_on else json.dumps({"plan": plan}) + "\n")
        self._file.flush()

    def record(self, name: str, entry: dict[str, Any]) -> None:
        """Append one finished piece."""
        with self._lock:
            self.done[name] = entry
            self._file.write(json.dumps({"name": name, **entry}) + "\n")
            self._file.flush()

    def adopt(self, path: Path) -> None:
        """Take over what another process has written into a journal of the same plan."""
        for name, entry in (_read(path, self._plan) or {}).items():
            self.record(name, entry)

    def intact(self, places: Iterable[TensorEntry], listener: Listener) -> set[str]:
        """Return which finished tensors are indeed in the output: their fingerprints are taken again."""
        claimed = [place for place in places if place.name in self.done]
        found = set()
        with TensorReader() as reader:
            for index, place in enumerate(claimed):
                listener.progress("checking what an earlier run has finished", index, len(claimed))
                if self.done[place.name].get("output") == reader.fingerprint(place):
                    found.add(place.name)
        return found

    def discard(self) -> None:
        """Close and remove the journal, on disk: the next run starts anew."""
        self.close()
        Path(self._file.name).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def _read(path: Path, plan: str) -> dict[str, dict[str, Any]] | None:
    """Return the finished pieces of a journal, or None if there is none of this plan."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    entries = [entry for entry in map(_parse, lines) if entry is not None]
    if not entries or entries[0] != {"plan": plan}:
        return None
    return {str(entry.pop("name")): entry for entry in entries[1:] if "name" in entry}


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
