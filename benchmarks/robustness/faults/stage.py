"""Where a command is played: its inputs, its output before and after, and what must be true of them."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.robustness.faults.commands import Command
from benchmarks.robustness.faults.runs import Disturbance, Ended, Running
from taskarith.checkpoints.digests import compare_folder
from taskarith.checkpoints.header import read_header
from taskarith.checkpoints.provenance import PROVENANCE_NAME, read_provenance, record_is_sealed
from taskarith.cli.guard import FAULT
from taskarith.errors import TaskarithError

__all__ = ["LOST", "Stage", "contents"]

LOST = "LOST: "
"""How what is wrong begins where something is lost or damaged."""

_PASSING = {
    "time",
    "digest",
    "seconds",
    "made",
    "tokens_per_second",
    "mfu",
    "command",
    "header_sha256",
    "resume",
    "train_runtime",
}
"""What differs between two records of the same work."""

_DATED = {PROVENANCE_NAME, "results.json", "report.html", "stages.json"}
"""Files that say when they were written."""
_TIMES = re.compile(rb"\d{4}-\d\d-\d\dT[\d:+]+|\b[0-9a-f]{64}\b|<p class=\"date\">[^<]*|taskarith [^<]*")
"""Times in a report, digests of files that have some, and commands, which may have --overwrite."""

_OVERWRITE = "--overwrite"


class Stage:
    """One command, what it gives undisturbed, and a folder to disturb it in.

    :param folder: With the inputs in ``in``; outputs go to ``out``.
    :param command: What is played.
    :param aside: A folder for copies of what it gives.
    """

    def __init__(self, folder: Path, command: Command, aside: Path) -> None:
        self.folder, self.command, self.aside = folder, command, aside
        self.out, self.target = folder / "out", folder / command.output
        self.can_overwrite = bool(command.output) and not command.start
        self.inputs = contents(folder / "in")
        self.seconds, self.steps = 0.0, 0
        self.given: Any = None

    def rehearse(self) -> None:
        """Run the command undisturbed: an earlier output, and the one that is asked for, twice.

        :raises RuntimeError: It fails, or does not give the same twice.
        """
        found = []
        for earlier in (True, False, False):
            self.clear()
            ended = self.run(self.words(earlier=earlier))
            _import(ended.modules)
            if ended.code not in {0, 1 if self.command.words.startswith("diff") else 0}:
                raise RuntimeError(f"{self.command.words} ends with {ended.code}: {ended.stderr}")
            if self.command.output:
                found.append(contents(self.target))
                if earlier:
                    _copy(self.target, self.aside / self.target.name)
            self.seconds, self.steps = ended.seconds, ended.steps
        if self.command.start:
            found[0] = contents(self.folder / self.command.start)
        self.given = tuple(found)
        if found and (found[1] != found[2] or found[0] == found[1]):
            differing = sorted(name for name in found[1] if found[1].get(name) != found[2].get(name))
            raise RuntimeError(f"{self.command.words} does not give the same twice, or the same always: {differing}")

    @property
    def new(self) -> dict[str, str]:
        """What the output holds after the command."""
        return dict(self.given[1])

    @property
    def old(self) -> dict[str, str]:
        """What an earlier output holds, or what the command changes."""
        return dict(self.given[0])

    def words(self, overwrite: bool = False, earlier: bool = False) -> list[str]:
        """Return the words of the command."""
        return [*self.command.line(earlier), *([_OVERWRITE] if overwrite and self.can_overwrite else [])]

    def run(self, words: list[str], disturbance: Disturbance | None = None, **signalled: Any) -> Ended:
        """Run to the end; see ``Running``."""
        return Running(words, self.folder, disturbance or Disturbance()).end(**signalled)

    def clear(self, earlier: bool = False) -> None:
        """Empty the place of outputs; put an earlier one there if so wanted."""
        self.out.mkdir(exist_ok=True)
        for path in self.out.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if earlier or self.command.start:
            _copy(
                self.folder / self.command.start if self.command.start else self.aside / self.target.name, self.target
            )

    def judge(self, ended: Ended, overwrite: bool, number: int | None = None, *more: dict[str, str]) -> list[str]:
        """Return what is wrong after a disturbed run.

        :param ended: How it ended.
        :param overwrite: Whether there was an earlier output.
        :param number: The signal that it was sent.
        :param more: What else the output may hold.
        """
        return [
            *self._judge_words(ended, number),
            *self._judge_output(ended, overwrite, more),
            *self._judge_promise(ended),
            *self.judge_inputs(),
        ]

    def judge_inputs(self) -> list[str]:
        """Return what is wrong with the inputs."""
        return [] if contents(self.folder / "in") == self.inputs else [f"{LOST}an input changed"]

    def rerun(self, overwrite: bool) -> list[str]:
        """Run the same command again, undisturbed, and return what is wrong then."""
        there = contents(self.target)
        is_done = there == self.new and (not overwrite or self.old != self.new)
        ended = self.run(self.words(overwrite))
        if "--resume" in ended.stderr and ended.code:
            ended = self.run([*self.words(overwrite), "--resume"])
        if "made of other inputs" in ended.stderr and self.command.in_stages:  # while one of them was changed
            ended = self.run(self.words(overwrite=True))
        if is_done and self.can_overwrite and not (overwrite or self.command.in_stages):
            found = [] if "already exists" in ended.stderr and ended.code == 1 else [f"rerun: {_last(ended)}"]
        else:
            found = [] if ended.code == 0 else [f"rerun fails: {_last(ended)}"]
        if contents(self.target) != self.new:
            found.append(f"{LOST}the rerun gives something else: {_differing(contents(self.target), self.new)}")
        if strays := sorted(path.name for path in self.out.iterdir() if path != self.target):
            found.append(f"the rerun leaves {', '.join(strays)}")
        return [*found, *_unsound(self.target), *self.judge_inputs()]

    def _judge_words(self, ended: Ended, number: int | None) -> Iterator[str]:
        if ended.seconds > 200:
            yield "hung"
        if any(words in ended.stderr for words in ("Traceback", "Exception ignored", FAULT)):
            yield f"traceback: {ended.stderr.strip().splitlines()[-1][:200]}"
        may_end = {0, 1} if number is None else {0, -number, *({130} if number == signal.SIGINT else {})}
        if ended.code not in may_end:
            yield f"ends with {ended.code}: {_last(ended)}"
        errors = len(re.findall(r"^error: ", ended.stderr.replace("\r", "\n"), re.MULTILINE))  # one may quote others
        if ended.code in {1, 2, 130} and errors != 1:
            yield f"{errors} errors are told: {_last(ended)}"

    def _judge_output(self, ended: Ended, overwrite: bool, more: tuple[dict[str, str], ...]) -> Iterator[str]:
        there = contents(self.target)
        before = self.old if overwrite else {}
        if self.command.start:
            yield from self._judge_change(there, was_killed=ended.code < 0)
        elif there not in (before, self.new, *more) and not self.command.in_stages:
            yield f"{LOST}neither the old nor the new output: {_differing(there, self.new)}"
        if ended.code == 0 and there not in (self.new, *more):
            yield f"{LOST}ends with 0 without the output"
        yield from _unsound(self.target)
        own = {self.target.name, *self._rooms()}
        if strays := sorted(path.name for path in self.out.iterdir() if path.name not in own):
            yield f"leaves {', '.join(strays)}"

    def _judge_change(self, there: dict[str, str], was_killed: bool) -> Iterator[str]:
        """Yield the files that are neither as before nor as after the command; a kill may leave one half written."""
        for name in sorted(there.keys() | self.old.keys() | self.new.keys()):
            is_partial = was_killed and name.rpartition("/")[2] == f".{PROVENANCE_NAME}"
            if there.get(name) not in (self.old.get(name), self.new.get(name)) and not is_partial:
                yield f"{LOST}neither as before nor as after: {name}"

    def _rooms(self) -> tuple[str, str]:
        return f".{self.target.name}.partial", f".{self.target.name}.training"

    def _judge_promise(self, ended: Ended) -> Iterator[str]:
        room, training = (self.out / name for name in self._rooms())
        if self.command.in_stages:
            return
        if "goes on where" in ended.stderr and not (room / "journal.jsonl").exists():
            yield "nothing is kept, against what it says"
        if "--resume" in ended.stderr and ended.code and not any(training.glob("checkpoint-*/trainer_state.json")):
            yield "no checkpoint is kept, against what it says"
        if ended.code in {1, 130} and not re.search("goes on|--resume|another run", ended.stderr):
            for path in (room, training):
                if path.exists():
                    yield f"leaves {path.name} without a word: {sorted(one.name for one in path.iterdir())}"


def contents(path: Path) -> dict[str, str]:
    """Return a digest of each file, times and commands left out; nothing of what does not exist."""
    if path.is_dir():
        files = {one.relative_to(path).as_posix(): one for one in sorted(path.rglob("*")) if not one.is_dir()}
        return {name: _digest(one) for name, one in files.items() if one.name != "lock"}
    return {"": _digest(path)} if os.path.lexists(path) else {}


def _digest(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".html":
        data = _TIMES.sub(b"", data)
    elif path.name in _DATED:
        try:
            record = json.loads(data)
            record = record | {"files": {k: v for k, v in record.get("files", {}).items() if k not in _DATED}}
            if path.name == "stages.json":  # what lay there before them may differ
                record = {name: stage["key"] for name, stage in record.items() if name != "files"}
            data = json.dumps(_lasting(record), sort_keys=True).encode()
        except ValueError:
            pass
    elif path.suffix == ".safetensors":
        try:
            header = read_header(path)
        except TaskarithError:
            return hashlib.sha256(data).hexdigest()
        start = 8 + int.from_bytes(data[:8], "little")
        shape = [(one.name, one.dtype, one.shape, one.offset - start) for one in header.tensors]
        data = json.dumps([shape, _lasting(dict(header.metadata))], sort_keys=True).encode() + data[start:]
    return hashlib.sha256(data).hexdigest()


def _lasting(value: Any) -> Any:
    """Leave out of a record what two runs of the same have apart."""
    if isinstance(value, str) and value.startswith("{"):  # a record in a header
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, dict):
        return {key: _lasting(one) for key, one in value.items() if key not in _PASSING}
    if isinstance(value, str):
        return value.replace("../", "").replace("./", "")  # the name of a base, seen from the output
    return [_lasting(one) for one in value] if isinstance(value, list) else value


def _unsound(target: Path) -> Iterator[str]:
    """Yield what the record of an output contradicts in it."""
    if not (target / PROVENANCE_NAME).is_file():
        return
    try:
        record = read_provenance(target) or {}
        changes = compare_folder(target, record.get("files", {}), {PROVENANCE_NAME}) if "files" in record else None
        if not record_is_sealed(target) or (changes and not changes.are_harmless):
            yield f"{LOST}the output is not as its record says: {changes}"
    except TaskarithError as error:
        yield f"{LOST}the record cannot be read: {error}"


def _import(names: Iterable[str]) -> None:
    """Import what a run had to import, so that the next one, a fork of this process, need not."""
    for name in sorted(names):
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _last(ended: Ended) -> str:
    return f"{ended.code}: " + " | ".join(ended.stderr.strip().splitlines()[-2:])[:300]


def _differing(one: dict[str, str], other: dict[str, str]) -> str:
    return ", ".join(sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))[:4])
