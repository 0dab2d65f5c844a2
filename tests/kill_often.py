"""Kill apply and extract at random moments, many times; a program of its own, since it forks.

After each kill the output must be what it was before or what it will be, never anything else; then the same call must
go on and give the same bits. Prints how many runs were killed in each state.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.checkpoints.header import build_header
from taskarith.edit.apply import apply
from taskarith.vectors.extract import extract


def save(folder: Path, seed: int) -> str:
    """Write a model of 24 MB."""
    generator = np.random.default_rng(seed)
    layout = [(f"layer.{index}.weight", "F32", (500, 100 * (index + 1))) for index in range(15)]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(build_header(layout, {})[0])
        for _, _, (rows, columns) in layout:
            file.write(generator.normal(size=rows * columns).astype(np.float32).tobytes())
    return str(folder)


def started(work: Callable[[], object]) -> int:
    """Do some work in a process of its own."""
    child = os.fork()
    if child == 0:
        os._exit(0 if work() else 1)
    return child


def state(path: Path) -> str:
    """Return the fingerprint of an output, or that there is none."""
    if not path.exists():
        return "absent"
    if path.is_dir():
        names = {"README.md", "config.json", "model.safetensors", "taskarith.json"}
        assert {item.name for item in path.iterdir()} == names
        return fingerprint_model(path)
    return str(hash(path.read_bytes()))


def rounds(work: Callable[[bool], object], target: Path, count: int) -> Counter[str]:
    """Kill the work ``count`` times, each time letting it end afterwards."""
    seen: Counter[str] = Counter()
    work(False)
    new = state(target)
    begin = time.perf_counter()
    work(True)
    duration = time.perf_counter() - begin
    for index in range(count):
        if index % 2:
            target.rename(target.with_name("away"))
        old = state(target)
        child = started(lambda: work(True))
        time.sleep(random.uniform(0, duration * 1.1))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        found = state(target)
        assert found in {old, new}, f"round {index}: neither the old nor the new output"
        room = target.with_name(f".{target.name}.partial")
        journal = room / "journal.jsonl"
        lines = journal.read_text().count("\n") if journal.exists() else 0
        at_work = "no room" if not room.exists() else f"{'some' if lines > 1 else 'no'} tensors done"
        seen["ended" if os.WIFEXITED(status) else f"killed, {at_work}"] += 1
        child = started(lambda: work(True))
        assert os.waitpid(child, 0)[1] == 0, f"round {index}: the next run failed"
        assert state(target) == new, f"round {index}: the next run gave other bits"
        assert not room.exists(), f"round {index}: {room} was left behind"
        if index % 2:
            away = target.with_name("away")
            if away.is_dir():
                for item in away.iterdir():
                    item.unlink()
                away.rmdir()
            else:
                away.unlink()
    return seen


def main(folder: Path, count: int) -> None:
    """Run the loop for both verbs."""
    base, tuned = save(folder / "base", 0), save(folder / "tuned", 1)
    edited, vector = folder / "edited", folder / "v.safetensors"
    seen = {
        "apply": rounds(
            lambda again: apply(base, negate=[f"{tuned}@@{base}:0.7"], output_dir=edited, overwrite=again),
            edited,
            count,
        ),
        "extract": rounds(lambda again: extract(base, tuned, vector, overwrite=again), vector, count),
    }
    for verb, states in seen.items():
        print(verb, dict(sorted(states.items())))  # noqa: T201


if __name__ == "__main__":
    random.seed(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    main(Path(sys.argv[1]), int(sys.argv[2]))
