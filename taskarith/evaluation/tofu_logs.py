"""Records from the log files of TOFU's own evaluation.

A folder of ``eval_log*.json`` and ``eval_real_*_wo_options.json``, one per data set, or all of them in one
``eval_log_aggregated.json``. Each file maps names of numbers to {sample id: value}.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from taskarith.errors import DataError, name_some
from taskarith.evaluation.records import Record, answer_record, continuation_record
from taskarith.untrusted import MalformedError, parse_json, read_text

__all__ = ["AGGREGATED", "LOG_FILES", "read_tofu_logs"]

AGGREGATED = "eval_log_aggregated.json"

LOG_FILES = {
    "eval_log_forget.json": "forget",
    "eval_log.json": "retain",
    "eval_real_author_wo_options.json": "real_authors",
    "eval_real_world_wo_options.json": "world_facts",
}
"""Names of the files, and of the texts they become."""

_LOSSES = ("avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss")
_GENERATED = "generated_text"


def read_tofu_logs(path: Path) -> list[Record]:
    """Return the records of one model: an ``answer`` and a ``continuation`` for every sample.

    ROUGE is recalculated from the logs' texts, and truth ratios from their losses.

    :param path: A folder, an aggregated file, or the file of one data set.
    :raises DataError: It is not such a log, an id occurs twice, or a sample lacks a number.
    """
    folder = path if path.is_dir() else path.parent
    model = folder.resolve().name
    records = [
        record for name, log in _logs(path) for record in _records(log, model, LOG_FILES[name], f"{path}: {name}")
    ]
    if not records:
        raise DataError(f"{path} has no samples", "Give a folder of TOFU's eval_log*.json files.")
    return records


def _logs(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield name and content of each data set's log."""
    if path.is_dir() and not (path / AGGREGATED).is_file():
        for name in LOG_FILES:
            if (path / name).is_file():
                yield name, _load(path / name)
        return
    file = path / AGGREGATED if path.is_dir() else path
    if file.name in LOG_FILES:
        yield file.name, _load(file)
        return
    logs = _load(file)
    if not isinstance(logs, dict) or not logs or (unknown := sorted(logs.keys() - LOG_FILES.keys())):
        fault = f"has logs of unknown names: {name_some(unknown)}" if isinstance(logs, dict) and logs else "has no logs"
        raise DataError(f"{file} {fault}", f"Give TOFU's {AGGREGATED}, or a file named {', '.join(LOG_FILES)}.")
    yield from logs.items()


def _load(file: Path) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Refuse duplicate keys, which JSON readers accept."""
        values = dict(pairs)
        if len(values) < len(pairs):
            repeated = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise DataError(f"{file} repeats the id {name_some(repeated)}", "Evaluate again; do not join logs by hand.")
        return values

    try:
        return parse_json(read_text(file), once)
    except MalformedError as error:
        raise DataError(f"{file} is not JSON: {error}", "Give a complete log file.") from error


def _records(log: Any, model: str, text: str, where: str) -> Iterator[Record]:
    wanted = (*_LOSSES, _GENERATED)
    if absent := [key for key in wanted if not isinstance(log, dict) or not isinstance(log.get(key), dict)]:
        raise DataError(f"{where} lacks {', '.join(absent)}", "Give logs as TOFU's evaluation writes them.")
    samples = log[_LOSSES[0]]
    if not samples:
        raise DataError(f"{where}: the {text} set is empty", "Evaluate again with its samples.")
    for key in wanted:
        if other := sorted(samples.keys() ^ log[key].keys()):
            raise DataError(
                f"{where}: {key} and {_LOSSES[0]} have different samples: {name_some(other)}", "Evaluate again."
            )
    for sample in samples:
        yield from _sample(log, model, text, sample, where)


def _sample(log: Mapping[str, Any], model: str, text: str, sample: str, where: str) -> Iterator[Record]:
    loss, paraphrased, perturbed = (log[key][sample] for key in _LOSSES)
    generated = log[_GENERATED][sample]
    if not isinstance(generated, list) or len(generated) != 3 or not all(isinstance(part, str) for part in generated):
        raise DataError(
            f"{where}: sample {sample} has no prompt, answer and true answer in {_GENERATED}", "Evaluate again."
        )
    prompt, answer, truth = generated
    yield answer_record(
        model, text, sample, loss, paraphrased, perturbed if isinstance(perturbed, list) else [perturbed]
    )
    yield continuation_record(model, text, sample, prompt, truth, answer)
