"""Faults of the disk that an output is written to."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from random import Random

from benchmarks.robustness.faults.disks import can_mount, filled, loop_disk, read_only, small_disk
from benchmarks.robustness.faults.runs import Disturbance, refuse_writes
from benchmarks.robustness.faults.stage import LOST, Stage, contents

__all__ = ["failing", "full", "full_for_a_moment", "read_only_folder", "thin"]

_NOBODY = 65534


def full(stage: Stage, rng: Random, turn: int) -> list[str]:
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


def full_for_a_moment(stage: Stage, rng: Random, turn: int) -> list[str]:
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


def thin(stage: Stage, rng: Random, turn: int) -> list[str]:
    """Let the disk below the output's file system be full for a moment: the kernel cannot write back what it took.

    What is on the disk is looked at: the file system is checked and mounted anew before the output is judged. Of work
    that was kept the file system may have lost the names; then the rerun starts anew.
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
        found = [one for one in stage.judge(ended, overwrite) if not one.startswith("nothing is kept")]
        found += stage.rerun(overwrite)
        remount()
        return (
            found if contents(stage.target) == stage.new else [*found, f"{LOST}the rerun's output is not on the disk"]
        )


def failing(number: int) -> Callable[[Stage, Random, int], list[str]]:
    """Refuse all writing from a random step on."""

    def play(stage: Stage, rng: Random, turn: int) -> list[str]:
        overwrite = bool(turn % 2)
        stage.clear(earlier=overwrite)
        act = Disturbance(rng.randint(1, stage.steps), lambda: refuse_writes(number))
        ended = stage.run(stage.words(overwrite), act)
        return [*stage.judge(ended, overwrite), *stage.rerun(overwrite)]

    return play


def read_only_folder(stage: Stage, rng: Random, turn: int) -> list[str]:
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


def _limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
