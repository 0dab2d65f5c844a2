"""Reading of stored records, checked to be of a known kind, unique, complete and finite."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from taskarith.errors import DataError, MismatchError, name_some
from taskarith.evaluation.records import Record
from taskarith.evaluation.tofu_logs import AGGREGATED, LOG_FILES, read_tofu_logs
from taskarith.untrusted import MalformedError, open_regular, parse_json

__all__ = ["RecordTable", "arrange", "check_same_samples", "other_samples", "read_records", "read_rows", "read_tables"]

_RECORDS = "records.jsonl"


@dataclass(frozen=True)
class RecordTable:
    """The records of one model.

    :param model: Its name.
    :param where: Source of the records, for errors.
    :param kinds: Records by kind, text and sample id; a divergence's id includes its reference, as in ``base: 7``.
    """

    model: str
    where: str
    kinds: dict[str, dict[str, dict[str, Record]]] = field(repr=False)

    def of(self, kind: str, text: str) -> dict[str, Record]:
        """Return the records of one kind and text by sample id; possibly none."""
        return self.kinds.get(kind, {}).get(text, {})

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the texts in the order in which they first occur."""
        return tuple(dict.fromkeys(text for texts in self.kinds.values() for text in texts))


def read_records(path: Path) -> list[Record]:
    """Read the records stored at a path.

    :param path: A ``records.jsonl`` or the folder that ``eval`` wrote it to; or TOFU's logs, see ``read_tofu_logs``.
    :raises DataError: The path does not exist, or its records are malformed.
    """
    if path.is_dir() and (path / _RECORDS).is_file():
        return _read_lines(path / _RECORDS)
    if path.is_dir() and not any((path / name).is_file() for name in (AGGREGATED, *LOG_FILES)):
        raise DataError(
            f"{path} does not contain records",
            f"Give the folder of an evaluation (with {_RECORDS}), or of TOFU's eval_log*.json.",
        )
    if not path.exists():
        raise DataError(f"there are no records at {path}", "Give the folder that eval wrote with --output-dir.")
    if path.is_dir() or path.suffix == ".json":
        return read_tofu_logs(path)
    return _read_lines(path)


def read_tables(path: str | Path) -> list[RecordTable]:
    """Read stored records by model, in the order in which models first occur.

    :raises DataError: As for ``read_records`` and ``arrange``.
    """
    return arrange(read_records(Path(path)), str(path))


def arrange(records: Iterable[Mapping[str, Any]], where: str) -> list[RecordTable]:
    """Sort records by model, kind, text and sample, and check each of them.

    Samples are sorted by id, so that numbers do not depend on the order of the records.

    :param where: Names their source in errors.
    :raises DataError: There are no records, or a record is of an unknown kind, lacks a value, has a value that is not
        finite or out of range, or occurs twice; the first five samples are listed.
    """
    tables: dict[str, RecordTable] = {}
    faults: dict[str, list[str]] = {}
    for number, record in enumerate(records, start=1):
        lost = [key for key in ("kind", "model", "text", "sample") if not isinstance(record.get(key), str)]
        if lost or record["kind"] not in _CHECKS:
            fault = f"lacks {', '.join(lost)}" if lost else f"is of the unknown kind '{record['kind']}'"
            raise DataError(f"record {number} of {where} {fault}", f"Known kinds are {', '.join(_CHECKS)}.")
        model, kind, text, sample = (record[key] for key in ("model", "kind", "text", "sample"))
        table = tables.setdefault(model, RecordTable(model, where, {}))
        group = table.kinds.setdefault(kind, {}).setdefault(text, {})
        name = f"{record.get('reference')}: {sample}" if kind == "divergence" else sample
        fault = "occurs twice" if name in group else _CHECKS[kind](record)
        if fault:
            faults.setdefault(f"{kind} {fault}", []).append(f"{sample} of {text} by {model}")
        group[name] = dict(record)
    for fault, samples in faults.items():
        raise DataError(f"in {where}, {fault}: {name_some(samples)}", "Evaluate that model on that text again.")
    for texts in (texts for table in tables.values() for texts in table.kinds.values()):
        texts |= {text: dict(sorted(group.items())) for text, group in texts.items()}
    if not tables:
        raise DataError(f"{where} contains no records", "Give the records of a finished evaluation.")
    return list(tables.values())


def read_rows(row: str, records: Any) -> list[Record]:
    """Return a row's records as stored by a run, checked like those of a file.

    :raises ValueError, TypeError: They are not valid records of the row.
    """
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise TypeError("records are maps")
    try:
        tables = arrange(records, "a journal") if records else []
    except DataError as error:
        raise ValueError(error.message) from error
    if any(table.model != row for table in tables):
        raise ValueError(f"records of another row than {row}")
    return records


def check_same_samples(first: RecordTable, second: RecordTable, kind: str, text: str) -> None:
    """Check that two models answered the same questions, before their records are combined.

    :raises MismatchError: Ids differ, or samples with the same id have different true texts.
    """
    if other := other_samples(first, second, kind, text):
        raise MismatchError(
            f"{first.model} in {first.where} and {second.model} in {second.where} have {other}",
            "Evaluate both models on the same data.",
        )


def other_samples(first: RecordTable, second: RecordTable, kind: str, text: str) -> str | None:
    """Return how the questions to two models differ, in ids or in texts with the same id, or None."""
    samples, others = first.of(kind, text), second.of(kind, text)
    if other := sorted(samples.keys() ^ others.keys()):
        return f"different samples of {text}: {name_some(other)}"
    if other := [sample for sample in samples if _is_other_block(samples[sample], others[sample])]:
        return f"different blocks of {text} with the same ids, since their tokenizers differ: {name_some(other)}"
    truths, other_truths = first.of("continuation", text), second.of("continuation", text)
    shared = sorted(truths.keys() & other_truths.keys())
    if other := [sample for sample in shared if truths[sample]["reference"] != other_truths[sample]["reference"]]:
        return f"different true texts of {text} with the same ids: {name_some(other)}"
    return None


def _is_other_block(block: Record, other: Record) -> bool:
    """Tell whether blocks of plain text with the same id differ in text; rows do not depend on the block size."""
    sizes = block.get("zlib_bytes"), other.get("zlib_bytes")
    return re.search(r"#\d+$", block["sample"]) is not None and None not in sizes and sizes[0] != sizes[1]


def _read_lines(path: Path) -> list[Record]:
    records = []
    with _open_lines(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    record = parse_json(line)
                    if not isinstance(record, dict):
                        raise DataError(
                            f"line {number} of {path} is not a record", "Give a records.jsonl of taskarith."
                        )
                    records.append(record)
        except ValueError as error:  # cut off by a killed writer, or not JSON lines at all
            raise DataError(
                f"{path} is not a file of JSON lines: {error}", "Give a records.jsonl of taskarith."
            ) from error
    return records


def _open_lines(path: Path) -> IO[str]:
    try:
        return io.TextIOWrapper(open_regular(path), encoding="utf-8")
    except (MalformedError, RuntimeError) as error:
        raise DataError(f"cannot read {path}: {error}", "Give a records.jsonl of taskarith.") from error


def _loss_fault(record: Mapping[str, Any]) -> str | None:
    tokens, correct = record.get("tokens", 0), record.get("correct", -1)
    if not _is_number(record.get("nll")):
        return "has no finite nll"
    if not _is_count(tokens, 1) or not _is_count(correct, 0) or correct > tokens:
        return "has no tokens, or more correct ones than tokens"
    for key in ("token_losses", "z_scores"):
        if key in record and not (_are_numbers(record[key]) and len(record[key]) == tokens):
            return f"has {key} that are not finite, or not one per token"
    hits = record.get("hits")
    if hits is not None and (not isinstance(hits, str) or len(hits) != tokens or hits.count("1") != correct):
        return "has hits that contradict its tokens or correct ones"
    if not _is_count(record.get("end_tokens", 0), 0) or record.get("end_tokens", 0) > tokens:
        return "has more end_tokens than tokens, or an invalid number"
    return None if "zlib_bytes" not in record or _is_count(record["zlib_bytes"], 1) else "has no valid zlib_bytes"


def _continuation_fault(record: Mapping[str, Any]) -> str | None:
    texts = [record.get("reference"), record.get("continuation")]
    return None if all(isinstance(text, str) for text in texts) else "lacks reference or continuation"


def _answer_fault(record: Mapping[str, Any]) -> str | None:
    perturbed = record.get("perturbed_losses")
    if not _is_number(record.get("loss")) or not _is_number(record.get("paraphrased_loss")):
        return "has no finite loss of the right answer and its paraphrase"
    return None if _are_numbers(perturbed) and perturbed else "has no finite losses of wrong answers"


def _divergence_fault(record: Mapping[str, Any]) -> str | None:
    tokens, agreed = record.get("tokens", 0), record.get("agreed", -1)
    if not isinstance(record.get("reference"), str) or not _is_number(record.get("kl")):
        return "has no reference or no finite kl"
    return (
        None if _is_count(tokens, 1) and _is_count(agreed, 0) and agreed <= tokens else "has no valid count of tokens"
    )


def _sampled_fault(record: Mapping[str, Any]) -> str | None:
    drawn = record.get("continuations")
    is_valid = isinstance(drawn, list) and drawn and all(isinstance(text, str) for text in drawn)
    return None if is_valid and isinstance(record.get("reference"), str) else "lacks reference or continuations"


def _gradient_fault(record: Mapping[str, Any]) -> str | None:
    norm = record.get("norm", -1)
    return None if _is_number(norm) and norm >= 0 else "has no finite norm"


def _lens_fault(record: Mapping[str, Any]) -> str | None:
    if "unreadable" in record:
        return None if isinstance(record["unreadable"], str) else "has no reason why layers cannot be read"
    if not _are_numbers(record.get("nll")) or not record["nll"]:
        return "has no finite losses of layers"
    return None if _is_count(record.get("tokens", 0), 1) else "has no valid count of tokens"


def _task_fault(record: Mapping[str, Any]) -> str | None:
    values = record.get("values")
    is_valid = isinstance(values, dict) and values and all(map(_is_number, values.values()))
    return None if is_valid else "has no finite values"


def _task_score_fault(record: Mapping[str, Any]) -> str | None:
    stderr, samples = record.get("stderr"), record.get("samples")
    if not _is_number(record.get("value")) or not (stderr is None or _is_number(stderr)):
        return "has no finite value, or a standard error that is not finite"
    return None if samples is None or _is_count(samples, 1) else "has no valid count of samples"


_CHECKS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "loss": _loss_fault,
    "continuation": _continuation_fault,
    "answer": _answer_fault,
    "divergence": _divergence_fault,
    "sampled": _sampled_fault,
    "gradient": _gradient_fault,
    "lens": _lens_fault,
    "task": _task_fault,
    "task_score": _task_score_fault,
}
"""For each kind, a function that returns the fault of a record, or None."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(map(_is_number, values))
