"""Data sets, from a file, a `datasets` folder or the hub, as documents of text, prompt and completion, or chat."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.checkpoints.reader import fingerprint_bytes
from taskarith.errors import DataError, UsageError
from taskarith.spec import DataRef, parse_data
from taskarith.training.documents import Document, Row, from_rows

__all__ = ["DataSet", "fingerprint_documents", "load_data", "read_hub", "read_rows"]

_ROW_FILES = {".jsonl", ".ndjson", ".json", ".csv", ".parquet"}
_LONGEST_CSV_FIELD = 2**31 - 1  # characters; Python's own limit of 131,072 is shorter than a chapter


@dataclass(frozen=True)
class DataSet:
    """All documents of one data set.

    :param spec: As the user named it.
    :param fingerprint: Over prompts, texts and messages in their order, whatever the file format; 32 hex digits.
    :param documents: At least one, none of them empty.
    """

    spec: str
    fingerprint: str
    documents: tuple[Document, ...]


def load_data(spec: str) -> DataSet:
    """Read a data set.

    A file with the suffix jsonl, ndjson, json, csv or parquet has rows; any other file is one text, in UTF-8. A folder
    is one that ``datasets`` wrote with ``save_to_disk``; anything that does not exist here is an id on the hub, of
    which the split is ``train`` if none is named. What rows hold is told by their columns: ``messages`` (a chat),
    ``prompt`` and ``completion`` (joined as they are), ``question`` and ``answer`` (written as TOFU does for Phi: one
    line ``Question: ...``, one line ``Answer: ...``), ``text``, or the one column that the user names. Plain rows
    without text are skipped.

    :param spec: ``FILE[:COLUMN]``, ``FOLDER[:COLUMN]`` or ``ID[:CONFIG[:SPLIT[:COLUMN]]]``.
    :raises DataError: It is missing, empty, unreadable, not UTF-8, or its columns or values are of no known kind.
    :raises UsageError: ``spec`` cannot be read.
    """
    reference = parse_data(spec)
    path = Path(reference.name)
    if not path.exists():
        documents = from_rows(read_hub(reference), reference)
    elif path.is_dir():
        documents = from_rows(_read_folder(path), reference)
    elif path.suffix.lower() in _ROW_FILES:
        documents = from_rows(read_rows(path), reference)
    else:
        documents = _from_text(path, reference)
    found = tuple(documents)
    if not found:
        raise DataError(f"{spec} has no text", "Give a data set with at least one row or sentence.")
    return DataSet(spec, fingerprint_documents(found), found)


def fingerprint_documents(documents: Iterable[Document]) -> str:
    """Return a fingerprint over prompts, texts and messages in their order."""
    contents = "\n".join(json.dumps([d.prompt, d.text, d.messages], sort_keys=True) for d in documents)
    return fingerprint_bytes(contents.encode())


# --- files -----------------------------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    """Return a UTF-8 file with its byte order mark taken off and its line ends made those of Unix."""
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start})", "Save it as UTF-8 plain text and name that file."
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "Check the path and its permissions.") from error
    if "\0" in text:
        raise DataError(
            f"{path} is not text: it holds null characters", "Save it as UTF-8 plain text and name that file."
        )
    return text.replace("\r\n", "\n")


def _from_text(path: Path, reference: DataRef) -> Iterator[Document]:
    if reference.column:
        raise UsageError(f"{path} is plain text and has no column '{reference.column}'", f"Give --data {path} alone.")
    text = _read_text(path)
    if text.strip():
        yield Document(path.name, text)


def read_rows(path: Path) -> Iterable[Row]:
    """Return the rows of a JSON lines, JSON, CSV or parquet file; a plain string of a JSON list is a row with ``text``.

    :raises DataError: It is not what its suffix says.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    text = _read_text(path)
    if path.suffix.lower() == ".csv":
        return _parse_csv(text, path)
    return _parse_json(text, path) if text.lstrip().startswith("[") else _parse_json_lines(text, path)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet  # directly: datasets would keep a second copy in its cache, and read [ and * as patterns

    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is no sound parquet file: {error}", "Write or download it again.") from error


def _parse_csv(text: str, path: Path) -> list[Row]:
    limit = csv.field_size_limit(_LONGEST_CSV_FIELD)
    try:
        return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise DataError(f"{path} is no sound CSV file: {error}", "Check its quotes and commas.") from error
    finally:
        csv.field_size_limit(limit)


def _parse_json(text: str, path: Path) -> list[Row]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no sound JSON: {error}", "Correct it, or save it as JSON lines.") from error
    dressed = ({"text": row} if isinstance(row, str) else row for row in rows)
    return [_check_row(row, f"row {number} of {path}") for number, row in enumerate(dressed, 1)]


def _parse_json_lines(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"line {number} of {path} is no JSON: {error}", "Write one JSON object a line, or a list of objects."
            ) from error
        yield _check_row(row, f"line {number} of {path}")


def _check_row(row: object, where: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{where} is no JSON object", 'Write objects, as in {"text": "..."}.')
    return row


# --- datasets --------------------------------------------------------------------------------------------------------


def _read_folder(path: Path) -> Iterable[Row]:
    if (path / "dataset_dict.json").exists():
        splits = sorted(item.name for item in path.iterdir() if (item / "dataset_info.json").exists())
        if "train" not in splits and len(splits) != 1:
            raise DataError(
                f"{path} has the splits {', '.join(splits) or '(none)'} and no train",
                f"Name the folder of one split, as in {path / (splits or ['test'])[0]}",
            )
        path = path / ("train" if "train" in splits else splits[0])
    if not (path / "dataset_info.json").exists():
        raise DataError(
            f"{path} is a folder, but not one that datasets' save_to_disk wrote", "Name a file in it, one --data each."
        )
    return _load_with_datasets(str(path), lambda datasets: datasets.load_from_disk(str(path)))


def read_hub(reference: DataRef) -> Iterable[Row]:
    """Return the rows of a data set on the hub, of the split ``train`` if none is named.

    :raises DataError: There is none of that name, config and split, or the hub cannot be reached.
    """
    name = reference.name
    looks_local = name.count("/") > 1 or name.startswith((".", "/", "~")) or "\\" in name
    if looks_local or Path(name).suffix.lower() in {*_ROW_FILES, ".txt", ".md"}:
        raise DataError(f"there is no file {name}", "Check the path; relative paths start at the current folder.")
    return _load_with_datasets(
        str(reference),
        lambda datasets: datasets.load_dataset(name, reference.config, split=reference.split or "train"),
    )


def _load_with_datasets(name: str, load: Callable[[Any], Any]) -> Iterable[Row]:
    import datasets
    from datasets.exceptions import DatasetsError
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    had_bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        return load(datasets)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error
        raise DataError(
            f"cannot load {name}: {str(cause).strip().partition(chr(10))[0] or type(cause).__name__}",
            "Check its name, config and split (ID:CONFIG:SPLIT:COLUMN) and the connection, or give a local file.",
        ) from error
    finally:
        if had_bars:
            enable_progress_bars()
