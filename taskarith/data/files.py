"""Files of rows (JSON lines, JSON, CSV, TSV, parquet) and of plain text; other files are refused."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from taskarith.data.documents import Row
from taskarith.errors import DataError, name_some
from taskarith.untrusted import MalformedError, open_regular, parse_json, read_bytes

__all__ = ["ROW_FILES", "drop_fillers", "is_known_suffix", "read_plain", "read_rows"]

ROW_FILES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"})
"""Suffixes of files that are read row by row."""

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_SEPARATOR_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_LONGEST_FIELD = 2**31 - 1  # characters; Python's own limit of 131,072 is shorter than a chapter

_OTHER_FORMATS = {
    ".gz .bz2 .xz .zst .lz4 .zip .tar .tgz .7z .rar": ("a compressed file", "Unpack it and give the file in it."),
    ".xlsx .xls .xlsm .ods .numbers": ("a spreadsheet", "Save the sheet as CSV in UTF-8 and give that file."),
    ".pdf .doc .docx .odt .rtf .epub .pptx": ("a document with a layout", "Save its text as UTF-8 plain text (.txt)."),
    ".jsonlines .jl": ("a file of rows under another name", "Rename it: JSON lines end with .jsonl."),
    ".tab .psv": ("a file of rows under another name", "Save rows as .csv or .tsv, with a header; plain text as .txt."),
    ".arrow .feather .orc .avro .lance .tfrecord .pkl .pickle .npy .npz .h5 .hdf5 .db .sqlite .sqlite3 .duckdb": (
        "a table in an unsupported format",
        "Save it as JSON lines or parquet; for a data set saved by datasets, give its folder.",
    ),
}
_NOT_READ = {suffix: reason for suffixes, reason in _OTHER_FORMATS.items() for suffix in suffixes.split()}


def is_known_suffix(name: str) -> bool:
    """Tell whether a name ends like a data file, supported or not, so that it is not a hub id."""
    return Path(name).suffix.lower() in {*ROW_FILES, *_NOT_READ, ".txt", ".md"}


def read_plain(path: Path) -> str:
    """Return the text of a plain text file.

    :raises DataError: Its suffix or content shows that it is something else, or it is not UTF-8.
    """
    if reason := _NOT_READ.get(path.suffix.lower()):
        raise DataError(f"{path} is {reason[0]}, not plain text", reason[1])
    text = _read_text(path)
    if _starts_with_object(text):
        raise DataError(
            f"{path} contains JSON objects, but its name does not end in .json or .jsonl",
            f"To read it as rows, name it {path.stem}.jsonl (one object per line) or {path.stem}.json (a list).",
        )
    return text


def _starts_with_object(text: str) -> bool:
    start = text.lstrip()
    try:
        if start.startswith("{"):
            return isinstance(parse_json(start.partition("\n")[0]), dict)
        rows = parse_json(start) if start.startswith("[") and start[1:].lstrip().startswith("{") else None
    except MalformedError:
        return False
    return isinstance(rows, list)


def read_rows(path: Path) -> Iterable[Row]:
    """Return the rows of a file; a string in a JSON list becomes a row with ``text``.

    :param path: A file with one of the suffixes ``ROW_FILES``.
    :raises DataError: Its content does not match its suffix.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    text = _read_text(path)
    if suffix in _SEPARATORS:
        return _parse_table(text, path, _SEPARATORS[suffix])
    return _parse_json(text, path) if text.lstrip().startswith("[") else _parse_json_lines(text, path)


def drop_fillers(value: Any) -> Any:
    """Return a nested Arrow value without keys whose value is None.

    Arrow gives every object of a column the keys of all objects, so missing keys come back as None.
    """
    if isinstance(value, dict):
        return {key: drop_fillers(item) for key, item in value.items() if item is not None}
    return [drop_fillers(item) for item in value] if isinstance(value, list) else value


def _read_text(path: Path) -> str:
    """Return the text of a UTF-8 file without byte order mark and with Unix line ends."""
    try:
        text = read_bytes(path, None).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start})", "Save it as UTF-8 plain text and give that file."
        ) from error
    except MalformedError as error:
        raise DataError(f"cannot read {path}: {error}", "Check the path and its permissions.") from error
    if "\0" in text:
        raise DataError(
            f"{path} is not text: it contains null characters", "Save it as UTF-8 plain text and give that file."
        )
    return text.replace("\r\n", "\n")


# --- parquet ---------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet  # directly: datasets would keep a second copy in its cache, and read [ and * as patterns

    try:
        with open_regular(path) as source:
            file = pyarrow.parquet.ParquetFile(source)
            _refuse_repeated(file.schema_arrow.names, path)
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield {column: drop_fillers(value) for column, value in row.items()}
    except (ValueError, OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} is not a valid parquet file: {error}", "Write or download it again.") from error


# --- CSV and TSV -----------------------------------------------------------------------------------------------------


def _parse_table(text: str, path: Path, separator: str) -> list[Row]:
    limit = csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return list(_table_rows(reader, path, separator))
    except csv.Error as error:
        raise DataError(
            f"{path} is not a valid {path.suffix[1:].upper()} file: line {reader.line_num}: {error}",
            f"Check its quotes and {_SEPARATOR_NAMES[separator]}; a quote in a quoted field is written twice.",
        ) from error
    finally:
        csv.field_size_limit(limit)


def _table_rows(reader: Any, path: Path, separator: str) -> Iterator[Row]:
    """Yield rows with as many fields as the header has columns, skipping blank lines.

    :param reader: Result of ``csv.reader``.
    """
    columns: list[str] = next((fields for fields in reader if fields), [])
    _check_header(columns, path, separator)
    end = reader.line_num
    for fields in reader:
        line, end = end + 1, reader.line_num  # a quoted field may have several lines
        if fields:
            _check_fields(fields, columns, f"line {line} of {path}", separator)
            yield dict(zip(columns, fields, strict=True))


def _check_header(columns: Sequence[str], path: Path, separator: str) -> None:
    others = [other for other in _SEPARATOR_NAMES if other != separator and other in columns[0]] if columns else []
    if len(columns) == 1 and others:
        raise DataError(
            f"{path} has only one column '{columns[0]}': its fields seem to be separated by "
            f"{_SEPARATOR_NAMES[others[0]]}, not by {_SEPARATOR_NAMES[separator]}",
            "Save it as .csv with commas, or as .tsv with tabs.",
        )
    _refuse_repeated([column for column in columns if column.strip()], path)


def _check_fields(fields: Sequence[str], columns: Sequence[str], where: str, separator: str) -> None:
    if len(fields) != len(columns):
        raise DataError(
            f"{where} has {len(fields)} field{'s'[: len(fields) != 1]}, but the header has {len(columns)}: "
            f"{name_some(columns)}",
            f"Put text that contains {_SEPARATOR_NAMES[separator]} between double quotes; empty fields stay empty.",
        )
    for number, (column, field) in enumerate(zip(columns, fields, strict=True), 1):
        if number > 1 and not column.strip() and field.strip():  # the first may be the index of pandas
            raise DataError(
                f"field {number} of {where} is '{field[:40]}', but its column has no name",
                f"Name the column, or put text that contains {_SEPARATOR_NAMES[separator]} between double quotes.",
            )


def _refuse_repeated(columns: Sequence[str], path: Path) -> None:
    if repeated := [column for column, times in Counter(columns).items() if times > 1]:
        raise DataError(f"{path} repeats the column {name_some(repeated)}", "Rename or remove one of the two.")


# --- JSON ------------------------------------------------------------------------------------------------------------


def _parse_json(text: str, path: Path) -> list[Row]:
    try:
        rows = parse_json(text)
    except MalformedError as error:
        raise DataError(f"{path} is not valid JSON: {error}", "Correct it, or save it as JSON lines.") from error
    objects = ({"text": row} if isinstance(row, str) else row for row in rows)
    return [_check_row(row, f"row {number} of {path}") for number, row in enumerate(objects, 1)]


def _parse_json_lines(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except MalformedError as error:
            raise DataError(
                f"line {number} of {path} is not JSON: {error}", "Write one JSON object per line, or a list of objects."
            ) from error
        yield _check_row(row, f"line {number} of {path}")


def _check_row(row: object, where: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{where} is not a JSON object", 'Write objects, as in {"text": "..."}.')
    return row
