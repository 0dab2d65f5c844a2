"""Faults of what is around a command: streams, homes, locales and the names of outputs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from benchmarks.robustness.faults.runs import Disturbance, Ended
from benchmarks.robustness.faults.stage import LOST, Stage, contents
from taskarith.cli.guard import FAULT

__all__ = ["ODD", "broken_pipe", "no_home", "odd_locale", "odd_paths"]


def broken_pipe(stage: Stage, rng: Random, turn: int) -> list[str]:
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
        return [*found, *(["traceback"] if "Traceback" in ended.stderr or FAULT in ended.stderr else [])]
    judged = stage.judge(ended, overwrite)
    if turn % 3 != 1:  # that nobody listens is not told to them
        judged = [one for one in judged if not one.startswith("0 errors")]
    return [*found, *judged, *stage.rerun(overwrite)]


def no_home(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Have no home, and no cache that was named: a process of its own, since much is decided when it starts."""
    del rng, turn
    stage.clear()
    ended = _start(stage, stage.words(), {"PATH": os.environ["PATH"]})
    return _alone(stage, ended)


def odd_locale(stage: Stage, rng: Random, turn: int) -> list[str]:
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


ODD = ["with blank", "ünï—码", "new\nline", "%s {} $HOME 'q\" [bold]", "x" * 240]


def odd_paths(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Write to an output with an odd name, in a folder with one, or to one that begins with a dash."""
    del rng
    stage.clear()
    odd, name = ODD[turn % len(ODD)], stage.target.name
    given = stage.command.output
    suffix = stage.target.suffix
    output = f"out/{odd[: 250 - len(suffix)]}{suffix}" if turn % 2 else f"out/{odd[:200]}/{name}"
    if turn == len(ODD):
        output = f"-dash{suffix}"
    (stage.folder / output).parent.mkdir(exist_ok=True)
    ended = stage.run([output if word == given else word for word in stage.words()])
    found = [] if ended.code == 0 else [f"fails for {output!r}: {ended.stderr[-300:]}"]
    target = stage.folder / output
    if ended.code == 0 and _unnamed(stage, contents(target)) != _unnamed(stage, stage.new):
        found.append(f"{LOST}another output at {output!r}")
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    strays = [path.name for path in target.parent.iterdir() if path.name.startswith(".")]
    return [*found, *(f"leaves {one}" for one in strays), *stage.judge_inputs()]


def _unnamed(stage: Stage, files: dict[str, str]) -> dict[str, str]:
    """Leave out what the output's name stands in: reports, and the records of stages, which name what they read."""
    ends = (".html", ".json", ".jsonl", ".md", ".yaml") if stage.command.in_stages else (".html",)
    return {name: digest for name, digest in files.items() if not name.endswith(ends)}


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
