"""`python -m benchmarks.training`: seconds of training beside a plain transformers Trainer and TRL's SFTTrainer.

All train the demo's model on the same rows in the same order, in interleaved rounds; only ``Trainer.train`` is
measured. TRL is left out where it is not installed. Writes benchmarks/RESULTS-training.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import random
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

from benchmarks.results import bullets, machine, table
from taskarith.checkpoints.packaged import demo_model
from taskarith.checkpoints.resolve import resolve_model
from taskarith.models.device import autocast_choice
from taskarith.progress import SILENT
from taskarith.training.finetune import finetune

_HERE = Path(__file__).resolve().parent
_TEXTS = _HERE.parent / "taskarith/demo/texts"
_RATE = 1e-4
_PLAIN, _TRL, _OURS = "transformers' Trainer", "TRL's SFTTrainer", "taskarith"
_PACKED, _GROUPED = "taskarith --packing", "taskarith --group-by-length"

_ABOUT = """Processor seconds of both cores, which other programs on the machine disturb less than the clock; medians of
{rounds} rounds, each training in a process of its own, and each round's ratio to the plain Trainer of the same round,
token by token. *Tokens* are those of rows, without padding; *loss* is the mean over the steps. Grouping by length puts
other rows into a step."""


@dataclass(frozen=True)
class Job:
    """What is trained on.

    :param title: Of its table.
    :param lengths: Smallest and largest number of tokens of a row.
    :param batch: Rows of a step.
    :param trainers: Who trains.
    """

    title: str
    lengths: tuple[int, int]
    batch: int
    trainers: tuple[str, ...]


_JOBS = {
    "full": Job("Rows of one length", (128, 128), 4, (_PLAIN, _OURS, _TRL)),
    "ragged": Job("Rows of 20 to 250 tokens", (20, 250), 4, (_PLAIN, _OURS, _PACKED, _GROUPED, _TRL)),
}


@dataclass(frozen=True)
class Run:
    """What one training took: seconds of the clock and of the processor, tokens of its rows, and its mean loss."""

    seconds: float
    processor: float
    tokens: int
    loss: float

    @property
    def per_token(self) -> float:
        """Processor seconds a token."""
        return self.processor / self.tokens


@dataclass(frozen=True)
class Task:
    """Rows in a file, and how they are trained on."""

    model: Path
    data: Path
    batch: int
    steps: int
    bf16: bool


def main() -> None:
    """Parse the command line, train, and write the tables."""
    options = _options()
    torch.set_num_threads(options.threads)
    model = resolve_model(str(demo_model()), SILENT).path
    bf16, _ = autocast_choice(torch.device("cpu"), None)
    peers = f"transformers {version('transformers')}"
    with suppress(PackageNotFoundError):
        peers += f", trl {version('trl')}"
    parts = []
    with TemporaryDirectory() as work:
        for name in options.only:
            job, data = _JOBS[name], Path(work) / f"{name}.jsonl"
            _write_rows(data, model, job, options.steps)
            task = Task(model, data, job.batch, options.steps, bf16)
            trainers = [trainer for trainer in job.trainers if "trl" in peers or trainer != _TRL]
            rounds = []
            for number in range(options.rounds):
                turn = number % len(trainers)  # none is always the first
                rounds.append({trainer: _run_alone(trainer, task) for trainer in trainers[turn:] + trainers[:turn]})
            parts += [f"## {job.title}", f"{job.batch} rows a step, number of steps: {options.steps}.", _table(rounds)]
    about = f"SmolLM2-135M, all weights, float32{', bfloat16 autocast' if bf16 else ''}, {options.threads} threads."
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    title = f"# Results of `python -m benchmarks.training`, {today}"
    facts = bullets(machine(peers))
    text = "\n\n".join([title, facts, f"{about} {_ABOUT.format(rounds=options.rounds)}", *parts]) + "\n"
    options.output.write_text(text, encoding="utf-8")
    print(text)


def _write_rows(path: Path, model: Path, job: Job, steps: int) -> None:
    """Cut rows of the job's lengths from the demo's texts."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model)
    text = " ".join(file.read_text(encoding="utf-8") for file in sorted(_TEXTS.glob("*.txt")))
    ids, draw, lines = tokenizer(text).input_ids, random.Random(0), []  # noqa: S311  (to be repeated)
    for _ in range(8 * job.batch * steps):
        length = draw.randint(*job.lengths)
        start = draw.randrange(len(ids) - length)
        lines.append(json.dumps({"text": tokenizer.decode(ids[start : start + length])}))
    path.write_text("\n".join(lines), encoding="utf-8")


def _run_alone(trainer: str, task: Task) -> Run:
    """Train in a process of its own: memory that an earlier training has touched makes the next one faster."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, trainer, task, torch.get_num_threads()).result()


def _run(trainer: str, task: Task, threads: int) -> Run:
    """Train, and return what ``Trainer.train`` took."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    runs: list[Run] = []
    train: Callable[..., Any] = transformers.Trainer.train

    def timed(self: Any, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter(), time.process_time()
        output = train(self, *arguments, **options)
        seconds, processor = time.perf_counter() - start[0], time.process_time() - start[1]
        losses = [entry["loss"] for entry in self.state.log_history if "loss" in entry]
        tokens = int(self.state.num_input_tokens_seen)
        runs.append(Run(seconds, processor, tokens, sum(losses) / len(losses)))
        print(f"{trainer}: {runs[-1]}", flush=True)
        return output

    transformers.Trainer.train = timed  # ty: ignore[invalid-assignment]
    try:
        with TemporaryDirectory() as work:
            if trainer.startswith(_OURS):
                _ours(task, Path(work), packing=trainer == _PACKED, group_by_length=trainer == _GROUPED)
            else:
                _theirs(trainer, task, Path(work)).train()
    finally:
        transformers.Trainer.train = train  # ty: ignore[invalid-assignment]
    return runs[0]


def _ours(task: Task, work: Path, **options: Any) -> None:
    finetune(
        str(task.model),
        [str(task.data)],
        work / "out",
        device="cpu",
        learning_rate=_RATE,
        per_device_train_batch_size=task.batch,
        max_steps=task.steps,
        bf16=task.bf16,
        **options,
    )


def _theirs(trainer: str, task: Task, work: Path) -> Any:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.float32)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(task.model)
    lines = task.data.read_text(encoding="utf-8").splitlines()
    rows = [{"input_ids": tokenizer(json.loads(line)["text"]).input_ids} for line in lines]
    settings: dict[str, Any] = {
        "output_dir": str(work),
        "per_device_train_batch_size": task.batch,
        "learning_rate": _RATE,
        "max_steps": task.steps,
        "bf16": task.bf16,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "include_num_input_tokens_seen": "non_padding",
    }
    if trainer == _TRL:
        return _trl(model, tokenizer, rows, settings)
    made = transformers.Trainer(
        model,
        transformers.TrainingArguments(**settings),
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
        train_dataset=rows,  # ty: ignore[invalid-argument-type]  (a list works as a data set)
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


def _trl(model: Any, tokenizer: Any, rows: list[dict[str, Any]], settings: Mapping[str, Any]) -> Any:
    """Make TRL's trainer; it would recompute activations, cut rows and make batches of whole lines."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # ty: ignore[unresolved-import]  (in another environment)

    arguments = SFTConfig(**settings, max_length=None, gradient_checkpointing=False)
    made = SFTTrainer(model, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    made.remove_callback(transformers.PrinterCallback)
    return made


def _table(rounds: list[dict[str, Run]]) -> str:
    rows = []
    for trainer in sorted(rounds[0], key=[_PLAIN, _OURS, _PACKED, _GROUPED, _TRL].index):
        runs = [each[trainer] for each in rounds]
        ratios = sorted(each[trainer].per_token / each[_PLAIN].per_token for each in rounds)
        processor = median(run.processor for run in runs)
        rows.append(
            [
                trainer,
                f"{processor:.1f}",
                f"{median(run.seconds for run in runs):.1f}",
                f"{runs[0].tokens / processor:,.0f}",
                f"{median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})",
                f"{runs[0].tokens:,}",
                f"{runs[0].loss:.6f}",
            ]
        )
    heads = ["", "processor s", "seconds", "tokens / processor s", "/ plain Trainer", "tokens", "loss"]
    return table(heads, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every table")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of a training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's")
    parser.add_argument("--only", nargs="+", choices=list(_JOBS), default=list(_JOBS), metavar="PART")
    parser.add_argument("--output", type=Path, default=_HERE / "RESULTS-training.md", help="file of the report")
    return parser.parse_args()


if __name__ == "__main__":
    main()
