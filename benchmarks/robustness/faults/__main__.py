"""Disturb all commands that write, and make a table of what came of it: ``python -m benchmarks.robustness.faults``."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from benchmarks.robustness.faults.commands import COMMANDS, PRINTING, Command, make_inputs
from benchmarks.robustness.faults.disks import can_mount
from benchmarks.robustness.faults.kinds import KINDS, SIGNALS
from benchmarks.robustness.faults.stage import LOST, Stage
from benchmarks.robustness.sections import RESULTS, write_section
from taskarith.arithmetic.kernels.compile import GROUPS, load_kernels
from taskarith.checkpoints.provenance import release

_ALL = {**COMMANDS, **PRINTING}

_WORDS = """Written by `make faults`. Every command that writes is run on small models, and disturbed:

{kinds}

Every other round replaces an earlier output. After each, the inputs are what they were; the output is absent, the
earlier one, or whole and of the right bytes (times and commands in records apart), and its record agrees (of a folder
that a command changes, such as `clean`, each file is as before or as after it); a failure has a code other than 0 and
one error without a traceback; what it says about work that is kept is true; the same command, run again, gives the
bytes of an undisturbed run, and leaves nothing else. *Survived* are the rounds of which all is true; *lost* those after
which an input or an output was damaged. Kills come in turn at random moments and at random steps (each file that is
opened, renamed or removed is one). {disks}

| command | fault | cases | survived | lost | seconds |
|---|---|---|---|---|---|"""
_MOUNTED = "Disks are mounted for it, which only root may do: tmpfs of a small size, and ext4 on a loop device."
_NOT_MOUNTED = (
    "Nothing could be mounted here: full disks are limits of the size of a file, and thin disks are left out."
)


@dataclass
class _Row:
    command: str
    kind: str
    cases: int = 0
    failed: int = 0
    lost: int = 0
    seconds: float = 0.0
    wrong: Counter[str] = field(default_factory=Counter)

    def add(self, wrong: list[str], seconds: float) -> None:
        self.cases, self.seconds = self.cases + 1, self.seconds + seconds
        self.failed += bool(wrong)
        self.lost += any(one.startswith(LOST) for one in wrong)
        self.wrong.update(wrong)

    def __str__(self) -> str:
        cells = (self.command, self.kind, self.cases, self.cases - self.failed, self.lost, f"{self.seconds:.0f}")
        return f"| {' | '.join(map(str, cells))} |"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, and write the table; the exit code says whether anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(_ALL), default=list(_ALL), metavar="COMMAND")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="FAULT")
    parser.add_argument("--kills", type=int, default=20, help="of each signal; commands that load models get a fifth")
    parser.add_argument("--rounds", type=int, help="of every kind, instead of its own number")
    parser.add_argument(
        "--start", type=int, default=0, help="number of the first round: to repeat one, with --rounds 1"
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--table", type=Path, default=RESULTS, help="the page to write into")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    folder.chmod(0o755)  # another user is to read the inputs
    rows: list[_Row] = []
    try:
        load_kernels(*GROUPS)
        release()
        _make_apart(folder / "in", [_ALL[name] for name in options.only])
        for name in sorted(options.only, key=lambda name: _ALL[name].is_heavy):
            aside = folder / f"aside {name}".replace(" ", "-")
            aside.mkdir()
            stage = Stage(folder, _ALL[name], aside)
            stage.rehearse()
            rows += [_play(stage, name, kind, options) for kind in options.kinds if KINDS[kind].applies(stage)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_section(options.table, "Faults", _table(rows, options))
    return int(any(row.failed for row in rows))


def _play(stage: Stage, name: str, kind: str, options: argparse.Namespace) -> _Row:
    """Play all rounds of one kind with one command."""
    row, heavy = _Row(name, kind), stage.command.is_heavy
    count = KINDS[kind].rounds[heavy] if kind not in SIGNALS else max(1, options.kills // (5 if heavy else 1))
    for turn in range(options.start, options.start + (options.rounds or count)):
        began = time.perf_counter()
        wrong = KINDS[kind].play(stage, Random(f"{options.seed} {name} {kind} {turn}"), turn)  # noqa: S311
        row.add(wrong, time.perf_counter() - began)
        for one in wrong:
            print(f"    round {turn}: {one}")
    print(row, flush=True)
    return row


def _make_apart(folder: Path, commands: list[Command]) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            make_inputs(folder, commands)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the inputs cannot be made")


def _table(rows: list[_Row], options: argparse.Namespace) -> str:
    kinds = "\n".join(f"- {name}: {KINDS[name].words}" for name in options.kinds)
    whole = _Row("all", f"seed {options.seed}")
    for row in rows:
        whole.cases, whole.failed = whole.cases + row.cases, whole.failed + row.failed
        whole.lost, whole.seconds = whole.lost + row.lost, whole.seconds + row.seconds
    wrong = [f"- {row.command}, {row.kind}: {what} ({n} times)" for row in rows for what, n in row.wrong.items()]
    head = _WORDS.format(kinds=kinds, disks=_MOUNTED if can_mount() else _NOT_MOUNTED)
    return "\n".join([head, *map(str, (*rows, whole)), "", *(wrong or ["Nothing went wrong."])])


if __name__ == "__main__":
    raise SystemExit(main())
