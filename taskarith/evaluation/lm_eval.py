"""General ability: lm-eval tasks (Language Model Evaluation Harness) on a model in memory.

lm-eval runs on the same model object as the other numbers, edited and with its tied weights, not on files.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeGuard

from taskarith.errors import DataError, UsageError, name_some
from taskarith.evaluation.grouping import takes_padding
from taskarith.evaluation.measurement import Measurement
from taskarith.evaluation.models import Loaded
from taskarith.evaluation.records import Record, task_record, task_score_record

__all__ = ["Tasks", "find_tasks", "run_tasks"]

_INSTALL = "Install it: pip install 'taskarith[lm-eval]'"
_STDERR = "_stderr"
_NO_FILTER = "none"
_CPU_BATCH = 16


@dataclass(frozen=True)
class Tasks:
    """Existing tasks, and lm-eval's task manager."""

    names: tuple[str, ...]
    manager: Any


def find_tasks(names: Sequence[str], folder: Path | None) -> Tasks:
    """Look up tasks before any model is loaded.

    :param names: Names of tasks, groups or tags.
    :param folder: The user's own task files (YAML).
    :raises UsageError: lm-eval is not installed, a task is given twice, or a task or folder does not exist.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(f"there is no task folder {folder}", "Give a folder of task files.")
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(f"cannot read the tasks '{','.join(names)}'", "Name each once, as in --tasks piqa,arc_easy")
    try:
        task_manager: Any = import_module("lm_eval.tasks").TaskManager
    except ImportError as error:
        raise UsageError("--tasks needs lm-eval, which is not installed", _INSTALL) from error
    with _silence():
        manager = task_manager(include_path=None if folder is None else str(folder), include_defaults=False)
        if set(names) - set(manager.all_tasks):  # only if needed: lm-eval takes long to read its own 14,000 files
            manager = task_manager(include_path=None if folder is None else str(folder))
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise UsageError(
            f"lm-eval does not have the tasks {name_some(unknown)}",
            "Use a task listed by 'lm-eval ls tasks', or give the --task-folder it is in.",
        )
    return Tasks(tuple(names), manager)


def run_tasks(loaded: Loaded, tasks: Tasks, row: str, measurement: Measurement) -> list[Record]:
    """Run tasks on a model; return records of samples, and of numbers that are not means over samples.

    :param row: Name of the row that the records belong to.
    :param measurement: Its batch size, limit, chat template, system prompt, and the seed of all random choices,
        such as few-shot examples.
    :raises DataError: A task's data cannot be read, or lm-eval fails in another way.
    """
    harness: Any = import_module("lm_eval")
    wrapper: Any = import_module("lm_eval.models.huggingface").HFLM
    batch_size: int | str = measurement.batch_size
    if batch_size == "auto" and loaded.model.device.type != "cuda":  # lm-eval's search would run 64 full contexts
        batch_size = _CPU_BATCH
    try:
        with _silence():
            model = wrapper(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size)
            if not takes_padding(loaded.model):
                model.generate_until = _one_by_one(model)
            results: Any = harness.simple_evaluate(
                model=model,
                tasks=list(tasks.names),
                task_manager=tasks.manager,
                limit=measurement.limit,
                apply_chat_template=measurement.apply_chat_template,
                system_instruction=measurement.system_prompt or None,
                random_seed=measurement.seed,
                numpy_random_seed=measurement.seed,
                torch_random_seed=measurement.seed,
                fewshot_random_seed=measurement.seed,
            )
    except Exception as error:  # tasks are third-party code and data
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(
            f"lm-eval cannot run {','.join(tasks.names)} on {row}: {cause}",
            "Built-in tasks download their data from the hub: check the connection, or the files of --task-folder.",
        ) from error
    return list(_records(results, row))


def _one_by_one(model: Any) -> Callable[..., Any]:
    """Return lm-eval's ``generate_until``, which pads prompts, with a batch size of 1."""
    together = model.generate_until

    def generate_until(*args: Any, **options: Any) -> Any:
        size, model.batch_size_per_gpu = model.batch_size_per_gpu, 1
        try:
            return together(*args, **options)
        finally:
            model.batch_size_per_gpu = size

    return generate_until


def _records(results: Mapping[str, Any], row: str) -> Iterator[Record]:
    samples = list(_samples(results, row))
    yield from samples
    means = {(record["text"], name) for record in samples for name in record["values"]}
    counts = results.get("n-samples") or {}
    for task, numbers in {**results["results"], **(results.get("groups") or {})}.items():
        for key, value in numbers.items():
            metric, comma, chosen = key.partition(",")
            name = _name(metric, chosen)
            if not comma or metric.endswith(_STDERR) or not _is_number(value) or (task, name) in means:
                continue
            stderr = numbers.get(f"{metric}{_STDERR},{chosen}")
            count = counts.get(task, {}).get("effective")
            yield task_score_record(row, task, name, float(value), float(stderr) if _is_number(stderr) else None, count)


def _samples(results: Mapping[str, Any], row: str) -> Iterator[Record]:
    """Yield each sample's values of metrics that are means over samples, unlike BLEU."""
    for task, samples in (results.get("samples") or {}).items():
        listed = results["configs"][task].get("metric_list") or []
        means = {metric["metric"] for metric in listed if metric.get("aggregation") == "mean"}
        for sample in samples:
            chosen = sample.get("filter", _NO_FILTER)
            values = {
                _name(metric, chosen): float(sample[metric])
                for metric in sample["metrics"]
                if metric in means and _is_number(sample.get(metric))
            }
            if values:
                yield task_record(row, task, _name(str(sample["doc_id"]), chosen), values)


def _name(name: str, chosen: str) -> str:
    """Append the name of the answer filter, if there is one: ``exact_match,strict``."""
    return name if chosen == _NO_FILTER else f"{name},{chosen}"


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, str | bytes) or value is None:
        return False
    try:
        return math.isfinite(value)
    except TypeError:
        return False


@contextlib.contextmanager
def _silence() -> Generator[None]:
    """Keep lm-eval's progress bars and remarks off the terminal."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
