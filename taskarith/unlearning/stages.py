"""The stages of a run: each writes one output, and is skipped where that is there already, made of the same inputs."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from taskarith.checkpoints.durable import replace_file
from taskarith.checkpoints.provenance import PROVENANCE_NAME, versions
from taskarith.errors import CheckpointError, OutputError, TaskarithError, name_some
from taskarith.progress import Listener
from taskarith.unlearning.call import Call
from taskarith.untrusted import MalformedError, check_fields, is_number, parse_json, read_text

__all__ = ["STAGES_NAME", "Stages", "read_stages", "write_json"]

STAGES_NAME = "stages.json"

_HEAD = 1 << 20


@dataclass(frozen=True)
class _Entry:
    """What is known of a stage.

    :param key: Digest of all that decides its output.
    :param before: Digest of what lay in the output's place when the stage began; empty for nothing.
    :param made: Digest of what it made; empty while it runs.
    :param seconds: How long it took.
    :param command: The command that repeats it.
    """

    key: str
    before: str
    made: str
    seconds: float
    command: str


@dataclass
class Stages:
    """The stages of a run, with what is known of those that ended.

    :param folder: Of the run.
    :param roots: Fingerprint of each model and data set that comes from outside, by how it is named.
    :param look_again: Returns the same, as it is now.
    :param count: Number of stages.
    :param overwrite: Make again what was made of other inputs, or with other settings.
    :param listener: Is told each stage and its command.
    :param commands: The commands of the stages so far, in order.
    """

    folder: Path
    roots: Mapping[str, str]
    look_again: Callable[[], Mapping[str, str]]
    count: int
    overwrite: bool
    listener: Listener
    commands: list[str] = field(default_factory=list)
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._entries = read_stages(self.folder)

    def is_done(self, call: Call, after: tuple[str, ...] = ()) -> bool:
        """Tell whether the output of a call is there, made of the same inputs with the same settings."""
        entry, found = self._entries.get(call.name), _digest(call.output)
        if entry is None or not found or entry.key != self._key(call, after):
            return False
        return found == entry.made if entry.made else found != entry.before  # it stopped right after publishing

    def expect(self, call: Call, after: tuple[str, ...] = ()) -> None:
        """Take note of a call on whose output others depend, whether it will be made or not."""
        self._keys[call.name] = self._key(call, after)

    def check(self, call: Call, after: tuple[str, ...] = ()) -> None:
        """Refuse to replace what was made otherwise.

        :raises OutputError: It is there, and may not be replaced.
        """
        if not self.overwrite and not self.is_done(call, after) and _digest(call.output):
            raise OutputError(
                f"{call.output} was made of other inputs or with other settings",
                "Name another output, or have it made again with --overwrite.",
            )

    def seconds(self, name: str) -> float:
        """Return how long a stage took that is done."""
        return self._entries[name].seconds

    def others(self) -> list[str]:
        """Return names of outputs that are there of an earlier run, and that this one did not come to."""
        return [name for name in self._entries if name not in self._keys and (self.folder / name).exists()]

    def skip(self, what: str, call: Call) -> None:
        """Tell of a stage whose output is there, or is not needed any more."""
        self.listener.note(f"{self._step(what, call)}: is there already")

    def run(self, what: str, call: Call, do: Callable[[], object], after: tuple[str, ...] = ()) -> None:
        """Make the output of a call, unless it is there already.

        :param what: What the stage is for.
        :param call: What it does.
        :param do: Does it; what lies in the output's place may be replaced.
        :param after: Names of the stages whose outputs it reads.
        :raises OutputError: What is there was made otherwise, and may not be replaced.
        :raises CheckpointError: A model or a text changed meanwhile.
        """
        self.expect(call, after)
        if self.is_done(call, after):
            self.skip(what, call)
            return
        self.check(call, after)
        before = _digest(call.output)
        self.listener.note(f"{self._step(what, call)}\n  {call}")
        entry = _Entry(self._key(call, after), before, "", 0.0, str(call))
        self._write(call.name, entry)
        start = time.perf_counter()
        do()
        self._check_roots(call)
        self._write(call.name, replace(entry, made=_digest(call.output), seconds=time.perf_counter() - start))

    def _check_roots(self, call: Call) -> None:
        """Refuse what was made while a model or a text changed: it is not known to be of the one or the other."""
        try:
            now = self.look_again()
        except TaskarithError:
            now = {}
        changed = [name for name, fingerprint in self.roots.items() if now.get(name) != fingerprint]
        if changed:
            self._write(call.name, _Entry("", "", "", 0.0, str(call)))
            raise CheckpointError(
                f"{name_some(changed)} changed or went away while this ran",
                f"Start again with --overwrite, which makes {call.output} again.",
            )

    def _step(self, what: str, call: Call) -> str:
        self.commands.append(str(call))
        return f"{len(self.commands)} of {self.count}: {what}"

    def _key(self, call: Call, after: tuple[str, ...]) -> str:
        known = {
            "words": [word.replace(str(self.folder), ".") for word in call.words],
            "inputs": {name: self.roots[name] for name in sorted(call.texts & self.roots.keys())},
            "after": {name: self._keys.get(name, "") for name in after},
            "version": versions()["taskarith"],
        }
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def _write(self, name: str, entry: _Entry) -> None:
        self._entries.pop(name, None)
        self._entries[name] = entry
        values = {name: vars(one) for name, one in self._entries.items()}
        write_json(self.folder / STAGES_NAME, values)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file of a run's folder, which is never there in part.

    :raises OutputError: The disk does not take it.
    """
    try:
        replace_file(path, f"{json.dumps(values, indent=2)}\n".encode())
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}", "Free some space, or name another output."
        ) from error


def read_stages(folder: Path) -> dict[str, _Entry]:
    """Return what is known of the stages of a run.

    :raises OutputError: The file that says so is broken.
    """
    path = folder / STAGES_NAME
    if not path.exists():
        return {}
    fields = {**dict.fromkeys(("key", "before", "made", "command"), _is_text), "seconds": is_number}
    try:
        values = parse_json(read_text(path))
        if not isinstance(values, dict):
            raise MalformedError("it is not a JSON object")
        for value in values.values():
            if not isinstance(value, dict) or any(value.get(field) is None for field in fields):
                raise MalformedError("a stage in it is not complete")
            check_fields(value, fields)
        return {name: _Entry(**{field: value[field] for field in fields}) for name, value in values.items()}
    except MalformedError as error:
        raise OutputError(f"cannot read {path}: {error}", "Name another output.") from error


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _digest(output: Path) -> str:
    """Return a digest of an output's record, which has those of all that is in it; empty if nothing is there.

    The record of a vector is the header of its file.
    """
    path = output / PROVENANCE_NAME if output.is_dir() else output
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(_HEAD)).hexdigest()
