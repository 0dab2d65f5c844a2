"""The kinds of faults, each played with one command."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.robustness.faults.disks import can_mount
from benchmarks.robustness.faults.runs import Disturbance, Running
from benchmarks.robustness.faults.stage import LOST, Stage, contents
from benchmarks.robustness.faults.starving import failing, full, full_for_a_moment, read_only_folder, thin
from benchmarks.robustness.faults.surroundings import broken_pipe, no_home, odd_locale, odd_paths

__all__ = ["KINDS", "SIGNALS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    :param words: What happens.
    :param play: Plays one round, of the number given, with a stage; returns what is wrong.
    :param rounds: How many are played with a command that is quick, and with one that is not.
    :param applies: Whether it can befall a command.
    """

    words: str
    play: Callable[[Stage, Random, int], list[str]]
    rounds: tuple[int, int]
    applies: Callable[[Stage], bool] = lambda stage: bool(stage.command.output)


def _makes_output(stage: Stage) -> bool:
    """Tell whether a command makes an output of its own, and does not change what is there."""
    return bool(stage.command.output) and not stage.command.start


def _signalled(number: int) -> Callable[[Stage, Random, int], list[str]]:
    """Send a signal: in every other pair of rounds at a random step, else at a random moment."""

    def play(stage: Stage, rng: Random, turn: int) -> list[str]:
        overwrite, at_step = bool(turn % 2), turn // 2 % 2
        stage.clear(earlier=overwrite)
        words = stage.words(overwrite)
        if at_step:
            act = Disturbance(rng.randint(1, stage.steps), lambda: os.kill(os.getpid(), number))
            running = Running(words, stage.folder, act)
            ended = running.end()
        else:
            running = Running(words, stage.folder)
            ended = running.end(number, rng.uniform(0, stage.seconds))
        left = [] if running.is_gone() else ["a process is left"]
        return [*left, *stage.judge(ended, overwrite, number), *stage.rerun(overwrite)]

    return play


def _input_replaced(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Change, exchange, cut or remove a file that is read, at a random step; the output is of before or after."""
    overwrite = bool(turn % 2)
    stage.clear(earlier=overwrite)
    names = set(re.findall(r"in/[\w.-]+", " ".join(stage.words())))
    names |= {"in/base", "in/v.safetensors", "in/w.safetensors"} if "in/recipe.yaml" in names else set()
    files = sorted(
        path
        for name in sorted(names)
        for path in ([stage.folder / name] if (stage.folder / name).is_file() else (stage.folder / name).iterdir())
        if path.suffix in {".safetensors", ".txt", ".jsonl"}
    )
    path, how = rng.choice(files), (_change, _exchange, _cut, Path.unlink)[turn // 2 % 4]
    kept = path.read_bytes()
    ended = stage.run(stage.words(overwrite), Disturbance(rng.randint(1, stage.steps), lambda: how(path)))
    found = contents(stage.target)
    more = []
    is_whole = ended.code == 0 or not stage.command.in_stages
    if how in {_change, _exchange} and is_whole and found not in ({}, stage.old, stage.new):
        stage.clear()
        again = stage.run(stage.words(overwrite))
        if again.code == 0:
            more = [contents(stage.target)]
        if found in more:
            found = stage.new
    stage.clear(earlier=overwrite) if more else None
    path.unlink(missing_ok=True)
    path.write_bytes(kept)
    wrong = stage.judge(ended, overwrite) if not more else []
    if more and found != stage.new:
        wrong.append(f"{LOST}the output is of neither input ({path.name}, {how.__name__})")
    return [*wrong, *stage.rerun(overwrite)]


def _two(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Start two runs into one output; every other time with the same words."""
    overwrite = bool(turn % 2)
    stage.clear(earlier=overwrite)
    first = Running(stage.words(overwrite), stage.folder)
    time.sleep(rng.uniform(0, stage.seconds / 2))
    second = Running(stage.words(overwrite, earlier=turn // 2 % 2 == 0), stage.folder)
    ends = [one.end() for one in (first, second)]
    found = [what for one in ends for what in stage.judge(one, overwrite, None, stage.old)]
    if all(one.code for one in ends):
        found.append(f"neither of two runs ends well: {ends[0].stderr[-200:]} {ends[1].stderr[-200:]}")
    if contents(stage.target) == stage.old and not overwrite:
        return found
    return [*found, *stage.rerun(overwrite)]


def _dying_worker(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Kill one of the processes that a run started."""
    overwrite = bool(turn % 2)
    stage.clear(earlier=overwrite)
    running = Running(stage.words(overwrite), stage.folder)
    time.sleep(rng.uniform(0.1, stage.seconds))
    with suppress(OSError, ValueError, IndexError):
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text(encoding="ascii").split()
        os.kill(int(children[-1]), signal.SIGKILL)
    ended = running.end()
    left = [] if running.is_gone() else ["a process is left"]
    return [*left, *stage.judge(ended, overwrite), *stage.rerun(overwrite)]


def _change(path: Path) -> None:
    """Change the last number a little, in place, and restore the times."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        letter = file.read(1)[0] ^ 1
        file.seek(-4, os.SEEK_END)
        file.write(bytes([letter]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _exchange(path: Path) -> None:
    other = path.with_name(f"{path.name}.other")
    shutil.copyfile(path, other)
    _change(other)
    other.replace(path)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _always(stage: Stage) -> bool:
    del stage
    return True


def _mounts(stage: Stage) -> bool:
    return bool(stage.command.output) and can_mount()


def _is_one_process(stage: Stage) -> bool:
    """Tell whether a command starts no processes: it would not reach them, and pipes are refused, too."""
    return bool(stage.command.output) and "--jobs" not in stage.command.words


SIGNALS = ("interrupt", "terminate", "kill")

KINDS = {
    "interrupt": Kind("SIGINT, as of Ctrl-C", _signalled(signal.SIGINT), (20, 4)),
    "terminate": Kind("SIGTERM", _signalled(signal.SIGTERM), (20, 4)),
    "kill": Kind("SIGKILL", _signalled(signal.SIGKILL), (20, 4)),
    "full disk": Kind("the output's disk is too small", full, (5, 2), _makes_output),
    "full for a moment": Kind(
        "that disk is filled at a random step, and emptied soon after", full_for_a_moment, (4, 1), _mounts
    ),
    "thin disk": Kind(
        "the disk below the output's file system is full for a moment, and what reached it is looked at",
        thin,
        (2, 1),
        _mounts,
    ),
    "quota": Kind(
        "from a random step on the kernel refuses to write, with EDQUOT",
        failing(errno.EDQUOT),
        (4, 2),
        _is_one_process,
    ),
    "failing disk": Kind("the same, with EIO", failing(errno.EIO), (3, 1), _is_one_process),
    "read-only": Kind(
        "the output's folder is another user's, or on a disk that is read-only", read_only_folder, (4, 2)
    ),
    "input replaced": Kind(
        "a file that is read is changed, exchanged, cut or removed meanwhile", _input_replaced, (8, 4), _makes_output
    ),
    "two at once": Kind("two runs into one output", _two, (4, 2), _makes_output),
    "dying worker": Kind(
        "a process that the command started is killed",
        _dying_worker,
        (6, 6),
        lambda stage: "--jobs" in stage.command.words,
    ),
    "broken pipe": Kind("stdout or stderr is a pipe that nobody reads, or a full device", broken_pipe, (3, 3), _always),
    "no home": Kind("neither HOME nor a cache is named", no_home, (1, 1), _always),
    "odd locale": Kind("ASCII alone", odd_locale, (1, 1), _always),
    "odd paths": Kind(
        "the output has blanks, breaks, quotes or 240 letters in its name, or a dash before it",
        odd_paths,
        (6, 2),
        _makes_output,
    ),
}
