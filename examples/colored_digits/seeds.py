"""Several seeds of the experiment, as many at a time as there are cores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers.utils import logging

from examples.colored_digits.experiment import Plan, Result, run

__all__ = ["run_seeds"]


def run_seeds(seeds: Sequence[int], plan: Plan, output: Path) -> list[Result]:
    """Run the seeds, several in processes of their own; models are in folders of ``output`` while they are needed."""
    one = partial(_run_seed, plan=plan, output=output)
    workers = min(len(seeds), os.cpu_count() or 1)
    if workers == 1:
        return [one(seed) for seed in seeds]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(one, seeds))


def _run_seed(seed: int, plan: Plan, output: Path) -> Result:
    torch.set_num_threads(1)  # of so small a model: more threads only wait for each other
    logging.disable_progress_bar()
    with TemporaryDirectory(prefix="digits-", dir=output) as folder:
        return run(seed, Path(folder), plan, lambda what: print(f"seed {seed}: {what}", flush=True))
