"""An hour of random commands, failures and kills on tiny models: ``python -m benchmarks.robustness.soak``.

One process lives as long as the run: it calls the Python API, interrupts some calls, and watches what it holds.
Between these it starts commands as processes of their own and kills most of them at a random moment; the next one
with the same words has to end well. After each round every output has to be whole, as it was, and to verify.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import taskarith
from benchmarks.robustness.commands import Command, World
from benchmarks.robustness.holding import Holding, growth, processes_with, rows_of
from benchmarks.robustness.runner import own_cache
from benchmarks.robustness.sections import RESULTS, write_section
from taskarith.checkpoints.checkpoint import UNDO_NAME
from taskarith.cli.guard import FAULT
from taskarith.progress import SILENT

__all__ = ["Soak", "main"]

_CALLS, _CHILDREN = 34, 6
"""Of a round."""

_LIGHT = {"apply": 10.0, "extract": 6, "combine": 3, "undo": 2, "verify": 2, "inspect": 2, "diff": 2, "relate": 1}
_HEAVY = {"eval": 0.15, "sweep": 0.15, "importance": 0.3}
"""How often verbs come; the heavy ones load models, for which a process of its own takes long."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
_PATIENCE = 600.0
"""Seconds after which a command hangs, on a machine that may be busy."""

_WORDS = """Written by `make soak`: {minutes:.0f} minutes, seed {seed}. One process calls the Python API at random
(apply by every method, extract in every form, combine, undo, verify, diff, inspect, relate, eval, sweep, importance)
on tiny models and on what earlier calls wrote; some calls are refused, some interrupted. Between these, commands are
started as processes of their own, and SIGINT, SIGTERM or SIGKILL comes at a random moment of most; then the same
command runs to its end. After each command every earlier output is compared by its bytes; after each round of {round}
commands every output is verified, the folder holds nothing else, and no process is left. *Odd* is whatever should not
be: a traceback, a command that hangs, a file that is left, more memory, descriptors, threads or temporary files in the
second half of the run than in the first."""


class _Interrupting:
    """A listener that interrupts at the n-th progress."""

    def __init__(self, after: int) -> None:
        self.left = after

    def progress(self, what: str, done: float, total: float) -> None:
        """Count down."""
        del what, done, total
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def note(self, message: str) -> None:
        """Receive a remark."""
        del message


@dataclass
class Soak:
    """A run.

    :param folder: An empty one.
    :param seed: Of all that is random but the moments that a loaded machine makes.
    """

    folder: Path
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)
    held: list[Holding] = field(default_factory=list)
    _digests: dict[Path, str] = field(default_factory=dict)
    _before: dict[Path, str] = field(default_factory=dict)
    _took: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        self.world = World(self.folder / "world")
        self._fixed = _digest(self.folder / "world")

    def round(
        self, number: int, calls: int = _CALLS, children: int = _CHILDREN, verbs: Mapping[str, float] | None = None
    ) -> None:
        """Run some commands, look at every output, and clear them away.

        :param number: Of the round; with the seed it decides the commands.
        :param calls: Commands in this process.
        :param children: Commands as processes of their own.
        :param verbs: How often verbs come; None makes the heavy ones come, too, often in the first round.
        """
        in_process = verbs or _LIGHT | (_HEAVY if number else dict.fromkeys(_HEAVY, 1.0))
        rng = Random(f"{self.seed}:{number}")  # noqa: S311 no secret
        self.world.outputs.mkdir()
        order = ["call"] * calls + ["child"] * children
        rng.shuffle(order)
        for how in order:
            command = self.world.draw(rng, in_process if how == "call" else verbs or _LIGHT)
            self.counts["commands"] += 1
            if how == "call":
                self._call(command, rng)
            else:
                self._child(command, rng)
        self._verify_all()
        shutil.rmtree(self.world.outputs)
        self.world.clear()
        self._digests.clear()
        self._before.clear()
        if _digest(self.folder / "world") != self._fixed:
            self.odd.append("an input has changed")
        self.odd += [f"a process is left: {words}" for words in processes_with(f"TMPDIR={self.temporary}")]
        self.held.append(Holding.now(self.temporary))

    def _call(self, command: Command, rng: Random) -> None:
        interrupted = rng.random() < 0.1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                command.call(_Interrupting(rng.randint(1, 12)) if interrupted else SILENT)
        except taskarith.TaskarithError:
            self.counts["refused"] += 1
            self._settle(command, done=False)
        except KeyboardInterrupt:
            self.counts["interrupted"] += 1
            self._settle(command, done=False)
            self._call(command, rng)
        except Exception as error:
            self.odd.append(f"{type(error).__name__} of {' '.join(command.argv())}: {error}")
        else:
            self._settle(command, done=True)

    def _child(self, command: Command, rng: Random) -> None:
        kill = rng.choice(_SIGNALS) if rng.random() < 0.9 else None
        code = self._run(command, kill, rng.random() * 1.2)
        self._settle(command, done=code == 0)
        if kill is not None and code not in {0, 1, 2}:
            self.counts[f"killed by {kill.name}"] += 1
            code = self._run(command, None, 0)
            self._settle(command, done=code == 0)

    def _run(self, command: Command, kill: signal.Signals | None, moment: float) -> int:
        """Run a command as a process of its own; return its exit code."""
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "taskarith", *command.argv(), "--quiet"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(self.temporary)},
        )
        words = ""
        try:
            words = child.communicate(timeout=moment * self._took.get(command.verb, 2.0) if kill else _PATIENCE)[1]
        except subprocess.TimeoutExpired:
            child.send_signal(kill or signal.SIGKILL)
            if kill is None:
                self.odd.append(f"hangs: {' '.join(command.argv())}")
            words = child.communicate(timeout=_PATIENCE)[1]
        if child.returncode == 0:
            self._took[command.verb] = time.perf_counter() - began
        if kill == signal.SIGINT and words.rstrip().endswith("KeyboardInterrupt"):  # before taskarith was imported
            return -kill
        expected = {0, 1, 2} | ({130, -kill} if kill else set())
        if child.returncode not in expected or "Traceback" in words or FAULT in words:
            self.odd.append(f"exit code {child.returncode} of {' '.join(command.argv())}: {words[-2000:]}")
        return child.returncode

    def _settle(self, command: Command, *, done: bool) -> None:
        """Note an output that was written, and see that all others are as they were.

        :param done: Whether the command said so; one that was killed may have been done, too.
        """
        output = command.output
        for path, digest in self._digests.items():
            if path != output and _digest(path) != digest:
                self._lose(path, f"after {' '.join(command.argv())}")
        if output is None:
            return
        now = _digest(output) if output.exists() else ""
        if now == self._digests.get(output, "") and not done:
            return
        self._digests[output], self.world.written[output] = now, command
        if command.verb == "apply":
            self._before[output] = _digest(Path(command.operands[0]), without=UNDO_NAME)
        elif command.verb == "undo":
            self._before[output] = self._before.get(Path(command.operands[0]), "")
        if not now or not self._is_sound(output):
            self._lose(output, f"written by {' '.join(command.argv())}")

    def _is_sound(self, output: Path) -> bool:
        verb = self.world.written[output].verb
        if verb == "undo":  # the very files of the model that was edited, which may have no record
            return _digest(output) == self._before[output]
        try:
            if verb == "importance":  # weights are no vector, and have no record: what stands in for it is the digest
                return taskarith.inspect(output).kind != ""
            return taskarith.verify(output).is_sound
        except taskarith.TaskarithError as error:
            self.odd.append(f"{output.name}: {error}")
            return False

    def _lose(self, path: Path, why: str) -> None:
        self.counts["lost"] += 1
        self.odd.append(f"{path.name} is lost: {why}")

    def _verify_all(self) -> None:
        for path, digest in self._digests.items():
            self.counts["verified"] += 1
            if _digest(path) != digest or not self._is_sound(path):
                self._lose(path, "at the end of the round")
        rooms = {path.name for path in self.world.outputs.iterdir()} - {path.name for path in self._digests}
        if rooms:
            self.odd.append(f"left behind: {sorted(rooms)}")

    def table(self, minutes: float) -> str:
        """Return the section of the results."""
        kills = sum(count for what, count in self.counts.items() if what.startswith("killed"))
        counts = [
            ("commands", self.counts["commands"]),
            ("refused", self.counts["refused"]),
            ("interrupted in the process", self.counts["interrupted"]),
            *((f"killed by {one.name}", self.counts[f"killed by {one.name}"]) for one in _SIGNALS),
            ("kills in all", kills),
            ("outputs verified", self.counts["verified"]),
            ("outputs lost", self.counts["lost"]),
            ("odd", len(self.odd)),
        ]
        rows = [f"| {what} | {count} |" for what, count in counts]
        words = _WORDS.format(minutes=minutes, seed=self.seed, round=_CALLS + _CHILDREN)
        found = [f"- {one}" for one in self.odd[:20]] or ["Nothing odd came out."]
        return "\n".join([words, "", "| what | count |", "|---|---|", *rows, "", *rows_of(self.held), "", *found])


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, and write the section; the exit code says whether anything odd was seen."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--table", type=Path, default=RESULTS, help="the page to write into")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    own_cache(folder / "cache")
    tempfile.tempdir = str(folder / "tmp")
    try:
        soak, began, number = Soak(folder, options.seed), time.monotonic(), 0
        while not number or time.monotonic() - began < options.minutes * 60:
            soak.round(number)
            number += 1
            print(number, dict(soak.counts), soak.held[-1], *soak.odd[-3:], flush=True)
        soak.odd += growth(soak.held)
    finally:
        shutil.rmtree(folder)
    write_section(options.table, "Soak", soak.table((time.monotonic() - began) / 60))
    print("\n".join(soak.odd) or "nothing odd")
    return 1 if soak.odd else 0


def _digest(path: Path, without: str = "") -> str:
    """Return a digest of a file, or of all files of a folder but those of ``outputs`` and one name."""
    state = hashlib.sha256()
    for one in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if one.is_file() and one.name != without and "outputs" not in one.relative_to(path).parts:
            state.update(f"{one.relative_to(path)}\0".encode() + one.read_bytes())
    return state.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
