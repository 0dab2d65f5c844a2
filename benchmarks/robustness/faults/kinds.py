"""The kinds of faults, each played with one command."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.robustness.faults.disks import can_mount, filled, loop_disk, read_only, small_disk
from benchmarks.robustness.faults.runs import Disturbance, Ended, Running, refuse_writes
from benchmarks.robustness.faults.stage import LOST, Stage, contents

__all__ = ["KINDS", "SIGNALS", "Kind"]

_NOBODY = 65534


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


def _full(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Let the output's disk be too small, or its files where no disk can be mounted."""
    overwrite = bool(turn % 2)
    size = sum(path.stat().st_size for path in (stage.aside).rglob("*") if path.is_file())
    if not can_mount():
        stage.clear(earlier=overwrite)
        limit = rng.randint(1, size)
        ended = stage.run(stage.words(overwrite), Disturbance(prepare=lambda: _limit_files(limit)))
        return [*stage.judge(ended, overwrite), *stage.rerun(overwrite)]
    size += 4096 * (6 + 2 * len(list(stage.aside.rglob("*"))))
    with small_disk(stage.out, int(size * (overwrite + rng.uniform(0.05, 1.3)))) as grow:
        stage.clear(earlier=overwrite)
        ended = stage.run(stage.words(overwrite))
        found = stage.judge(ended, overwrite)
        grow()
        return [*found, *stage.rerun(overwrite)]


def _full_for_a_moment(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Fill the output's disk at a random step, and empty it soon after."""
    overwrite = bool(turn % 2)
    with small_disk(stage.out, 64 << 20):
        stage.clear(earlier=overwrite)
        filler = stage.out / "filler"
        step, pause = rng.randint(1, stage.steps), rng.uniform(0.001, 0.2)
        ended = stage.run(stage.words(overwrite), Disturbance(step, lambda: filled(filler, pause)))
        time.sleep(0.3)
        filler.unlink(missing_ok=True)
        return [*stage.judge(ended, overwrite), *stage.rerun(overwrite)]


def _thin(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Let the disk below the output's file system be full for a moment: the kernel cannot write back what it took.

    What is on the disk is looked at: the file system is mounted anew before the output is judged.
    """
    overwrite = bool(turn % 2)
    with loop_disk(stage.out, stage.aside.with_name("thin")) as (remount, filler):
        stage.clear(earlier=overwrite)
        remount()
        step, pause = rng.randint(1, stage.steps), rng.uniform(0.01, 0.4)
        ended = stage.run(stage.words(overwrite), Disturbance(step, lambda: filled(filler, pause)))
        time.sleep(0.5)
        filler.unlink(missing_ok=True)
        remount()
        found = stage.judge(ended, overwrite)
        found += stage.rerun(overwrite)
        remount()
        return (
            found if contents(stage.target) == stage.new else [*found, f"{LOST}the rerun's output is not on the disk"]
        )


def _failing(number: int) -> Callable[[Stage, Random, int], list[str]]:
    """Refuse all writing from a random step on."""

    def play(stage: Stage, rng: Random, turn: int) -> list[str]:
        overwrite = bool(turn % 2)
        stage.clear(earlier=overwrite)
        act = Disturbance(rng.randint(1, stage.steps), lambda: refuse_writes(number))
        ended = stage.run(stage.words(overwrite), act)
        return [*stage.judge(ended, overwrite), *stage.rerun(overwrite)]

    return play


def _read_only(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Let the output's folder be one that may not be written: of another user, or of a disk that is read-only."""
    del rng
    overwrite = bool(turn % 2)
    if turn // 2 % 2 == 0 and os.getuid() == 0:
        stage.clear(earlier=overwrite)
        ended = stage.run(stage.words(overwrite), Disturbance(prepare=lambda: os.setuid(_NOBODY)))
        found = ["it writes where it may not"] if ended.code != 1 else []
        return [*found, *stage.judge(ended, overwrite), *stage.rerun(overwrite)]
    if not can_mount():
        return []
    with small_disk(stage.out, 64 << 20):
        stage.clear(earlier=overwrite)
        with read_only(stage.out):
            ended = stage.run(stage.words(overwrite))
        found = ["it writes where it may not"] if ended.code != 1 else []
        return [*found, *stage.judge(ended, overwrite), *stage.rerun(overwrite)]


def _input_replaced(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Change, exchange, cut or remove a file that is read, at a random step; the output is of before or after."""
    overwrite = bool(turn % 2)
    stage.clear(earlier=overwrite)
    names = sorted(set(re.findall(r"in/[\w.-]+", " ".join(stage.words()))))
    files = sorted(
        path
        for name in names
        for path in ([stage.folder / name] if (stage.folder / name).is_file() else (stage.folder / name).iterdir())
        if path.suffix in {".safetensors", ".txt"}
    )
    path, how = rng.choice(files), (_change, _exchange, _cut, Path.unlink)[turn // 2 % 4]
    kept = path.read_bytes()
    ended = stage.run(stage.words(overwrite), Disturbance(rng.randint(1, stage.steps), lambda: how(path)))
    found = contents(stage.target)
    more = []
    if how in {_change, _exchange} and found not in ({}, stage.old, stage.new):
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


def _broken_pipe(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Print into a pipe that nobody reads, or into a full device."""
    del rng
    overwrite = bool(turn % 2) and stage.can_overwrite
    stage.clear(earlier=overwrite)
    reader, pipe = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    output = ((pipe, None), (full, None), (None, pipe))[turn % 3]
    words = [*stage.words(overwrite), *(["--json"] if turn % 2 else [])]
    ended = stage.run(words, Disturbance(output=output))
    os.close(pipe)
    os.close(full)
    found = ["ends with 0, although nothing could be printed"] if turn % 3 == 1 and ended.code == 0 else []
    if not stage.command.output:
        return [*found, *(["traceback"] if "Traceback" in ended.stderr else [])]
    judged = stage.judge(ended, overwrite)
    if turn % 3 != 1:  # that nobody listens is not told to them
        judged = [one for one in judged if not one.startswith("0 errors")]
    return [*found, *judged, *stage.rerun(overwrite)]


def _no_home(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Have no home, and no cache that was named: a process of its own, since much is decided when it starts."""
    del rng, turn
    stage.clear()
    ended = _start(stage, stage.words(), {"PATH": os.environ["PATH"]})
    return _alone(stage, ended)


def _locale(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Speak ASCII alone; light commands in a process of their own, others here."""
    del rng, turn
    stage.clear()
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    if stage.command.is_heavy:
        ended = stage.run(stage.words(), Disturbance(encoding="ascii"))
    else:
        ended = _start(stage, stage.words(), {**os.environ, **plain})
    return _alone(stage, ended)


def _alone(stage: Stage, ended: Ended) -> list[str]:
    failed = [f"fails: {ended.stderr[-300:]}"] if ended.code not in {0, int("diff" in stage.command.words)} else []
    return [*failed, *(stage.judge(ended, overwrite=False) if stage.command.output else [])]


_ODD = ["with blank", "ünï—码", "new\nline", "%s {} $HOME 'q\" [bold]", "x" * 240]


def _odd_paths(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Write to an output with an odd name, in a folder with one, or to one that begins with a dash."""
    del rng
    stage.clear()
    odd, name = _ODD[turn % len(_ODD)], stage.target.name
    given = stage.command.output
    suffix = stage.target.suffix
    output = f"out/{odd[: 250 - len(suffix)]}{suffix}" if turn % 2 else f"out/{odd[:200]}/{name}"
    if turn == len(_ODD):
        output = f"-dash{suffix}"
    (stage.folder / output).parent.mkdir(exist_ok=True)
    ended = stage.run([output if word == given else word for word in stage.words()])
    found = [] if ended.code == 0 else [f"fails for {output!r}: {ended.stderr[-300:]}"]
    target = stage.folder / output
    if ended.code == 0 and contents(target) != stage.new:
        found.append(f"{LOST}another output at {output!r}")
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    strays = [path.name for path in target.parent.iterdir() if path.name.startswith(".")]
    return [*found, *(f"leaves {one}" for one in strays), *stage.judge_inputs()]


def _start(stage: Stage, words: list[str], environment: dict[str, str]) -> Ended:
    began = time.perf_counter()
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-m", "taskarith", *words],
        cwd=stage.folder,
        env=environment | settings,
        capture_output=True,
        check=False,
    )
    out, err = (text.decode("utf-8", "backslashreplace") for text in (done.stdout, done.stderr))
    return Ended(done.returncode, out, err, time.perf_counter() - began)


def _limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


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
    other = path.with_name("other")
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
    "full disk": Kind("the output's disk is too small", _full, (5, 2)),
    "full for a moment": Kind(
        "that disk is filled at a random step, and emptied soon after", _full_for_a_moment, (4, 1), _mounts
    ),
    "thin disk": Kind(
        "the disk below the output's file system is full for a moment, and what reached it is looked at",
        _thin,
        (2, 1),
        _mounts,
    ),
    "quota": Kind(
        "from a random step on the kernel refuses to write, with EDQUOT",
        _failing(errno.EDQUOT),
        (4, 2),
        _is_one_process,
    ),
    "failing disk": Kind("the same, with EIO", _failing(errno.EIO), (3, 1), _is_one_process),
    "read-only": Kind("the output's folder is another user's, or on a disk that is read-only", _read_only, (4, 2)),
    "input replaced": Kind(
        "a file that is read is changed, exchanged, cut or removed meanwhile", _input_replaced, (8, 4)
    ),
    "two at once": Kind("two runs into one output", _two, (4, 2)),
    "dying worker": Kind(
        "a process that the command started is killed",
        _dying_worker,
        (6, 6),
        lambda stage: "--jobs" in stage.command.words,
    ),
    "broken pipe": Kind(
        "stdout or stderr is a pipe that nobody reads, or a full device", _broken_pipe, (3, 3), _always
    ),
    "no home": Kind("neither HOME nor a cache is named", _no_home, (1, 1), _always),
    "odd locale": Kind("ASCII alone", _locale, (1, 1), _always),
    "odd paths": Kind(
        "the output has blanks, line breaks, quotes or 240 letters in its name, or a dash before it", _odd_paths, (6, 2)
    ),
}
