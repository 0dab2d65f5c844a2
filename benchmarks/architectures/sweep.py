"""Run architectures in processes of their own, so that a crash or a hang ends one of them and not the sweep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.architectures.steps import Outcome, Result, run

__all__ = ["read_results", "serve", "sweep"]

_PATIENCE = 600
"""Seconds that an architecture may take."""


def sweep(
    names: Sequence[str], steps: Collection[str], jobs: int, output: Path, tell: Callable[[Result], None]
) -> None:
    """Take architectures through steps, and append what came of each to a file as it comes.

    :param names: Some of ``population``.
    :param steps: Some of ``STEPS``.
    :param jobs: Processes at a time, each with one thread.
    :param output: JSON lines.
    :param tell: Receives each result.
    """
    lock, local = threading.Lock(), threading.local()
    workers: list[_Worker] = []

    def one(name: str) -> None:
        if not hasattr(local, "worker"):
            local.worker = _Worker(steps)
            workers.append(local.worker)
        result = local.worker.run(name)
        with lock, output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result.to_json()) + "\n")
            tell(result)

    try:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, names))
    finally:
        for worker in workers:
            worker.stop()


def serve(steps: Collection[str]) -> None:
    """Be a worker: read names from the standard input, and answer each with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    for line in sys.stdin:
        print(json.dumps(run(line.strip(), steps).to_json()), file=answers, flush=True)


def read_results(path: Path) -> dict[str, Result]:
    """Read what a sweep found, the last time that each architecture was run."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    results = [Result.from_json(json.loads(line)) for line in lines]
    return {result.name: result for result in results}


class _Worker:
    """A process that takes one architecture after another."""

    def __init__(self, steps: Collection[str]) -> None:
        self._steps = steps
        self._process: subprocess.Popen[str] | None = None

    def run(self, name: str) -> Result:
        """Let the process take an architecture; start it where it is not running."""
        process = self._started()
        alarm = threading.Timer(_PATIENCE, process.kill)
        alarm.start()
        try:
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            alarm.cancel()
        if line:
            return Result.from_json(json.loads(line))
        code = process.wait()
        return Result(name, {step: Outcome("wrong", f"the process ended with code {code}") for step in self._steps})

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            command = [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "benchmarks.architectures",
                "--worker",
                "--steps",
                *self._steps,
            ]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        return self._process
