"""Data sets from files, `datasets` folders or the hub, as documents: texts, prompts with completions, or chats."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any

from taskarith.checkpoints.reader import fingerprint_bytes
from taskarith.data.documents import ANSWER_ALONE, CHAT_DAY, Document, Row, RowForm, from_rows
from taskarith.data.files import ROW_FILES, drop_fillers, is_known_suffix, read_plain, read_rows
from taskarith.data.spec import DataRef, is_pattern, parse_data
from taskarith.errors import DataError, UsageError

__all__ = ["DataSet", "check_data", "check_form", "data_paths", "fingerprint_documents", "load_data", "read_hub"]


@dataclass(frozen=True)
class DataSet:
    """All documents of one data set.

    :param spec: The data set as the user named it.
    :param fingerprint: Of prompts, texts and messages in order, independent of the file format; 32 hex digits.
    :param documents: At least one document, none empty.
    :param form: How its questions and chats are formatted.
    """

    spec: str
    fingerprint: str
    documents: tuple[Document, ...]
    form: RowForm = ANSWER_ALONE

    @property
    def has_chats(self) -> bool:
        """Whether it contains chats."""
        return any(document.messages is not None for document in self.documents)

    def record(self) -> dict[str, Any]:
        """Return its spec and fingerprint; for chats also their format and the date given to templates."""
        record = {"spec": self.spec, "fingerprint": self.fingerprint}
        if not self.has_chats:
            return record
        options = {"apply_chat_template": self.form.apply_chat_template, "system_prompt": self.form.system_prompt}
        return {**record, "chat_day": CHAT_DAY.isoformat(), **{name: value for name, value in options.items() if value}}


def check_form(form: RowForm, sets: Iterable[DataSet], *, beside: bool = False) -> None:
    """Check that the chat options have an effect.

    :param sets: Data sets with that form.
    :param beside: Whether something else uses that form.
    :raises UsageError: There are no chats.
    """
    option = "--apply-chat-template" if form.apply_chat_template else "--system-prompt" if form.system_prompt else None
    if option and not beside and not any(data.has_chats for data in sets):
        raise UsageError(
            f"{option} has no effect, since no data are chats",
            "Give rows of messages, or of question and answer with --apply-chat-template, or leave it out.",
        )


def load_data(spec: str, form: RowForm = ANSWER_ALONE) -> DataSet:
    """Read a data set.

    A file with the suffix jsonl, ndjson, json, csv, tsv or parquet has rows; any other file is one UTF-8 text. A folder
    is one that ``datasets`` wrote with ``save_to_disk``, or its files and those of its folders, in the order of their
    names, hidden ones left out; a pattern such as ``docs/*.txt`` is the files that match it. Anything else that does
    not exist locally is a hub id, whose default split is ``train``.

    Columns set the kind of rows: ``messages`` (a chat), ``prompt`` and ``completion`` (joined as they are, or two lists
    of messages), ``question`` and ``answer`` (a chat, or as TOFU writes them for Phi: one line ``Question: ...``, one
    line ``Answer: ...``), ``text``, ``conversations`` (a chat, also in ShareGPT's format), or the given column. Plain
    rows without text are skipped.

    :param spec: ``FILE[:COLUMN]``, ``FOLDER[:COLUMN]``, ``PATTERN[:COLUMN]`` or ``ID[:CONFIG[:SPLIT[:COLUMN]]]``.
    :param form: How questions and chats are formatted.
    :raises DataError: It is missing, empty, unreadable, not UTF-8, or has unknown columns or values.
    :raises UsageError: ``spec`` cannot be read.
    """
    reference = parse_data(spec)
    path = Path(reference.name)
    if files := _files(reference):
        documents = _read_files(files, reference, form)
    elif path.is_dir():
        documents = from_rows(_read_folder(path), reference, form)
    else:
        documents = from_rows(read_hub(reference), reference, form)
    loaded = tuple(documents)
    if not loaded:
        raise DataError(f"{spec} has no text", "Give a data set with at least one row or sentence.")
    return DataSet(spec, fingerprint_documents(loaded), loaded, form)


def data_paths(specs: Iterable[str | None]) -> list[str]:
    """Return the files, folders and hub ids of data sets, skipping None; for a pattern, the files that match it."""
    references = [parse_data(spec) for spec in specs if spec]
    return [name for one in references for name in ([*map(str, _files(one))] if is_pattern(one.name) else [one.name])]


def fingerprint_documents(documents: Iterable[Document]) -> str:
    """Return a fingerprint of prompts, texts and messages in order, and of template variables."""
    contents = "\n".join(
        json.dumps([d.prompt, d.text, d.messages, *([d.variables] if d.variables else [])], sort_keys=True, default=str)
        for d in documents
    )
    return fingerprint_bytes(contents.encode())


def _files(reference: DataRef) -> list[Path]:
    """Return the local files of a data set; none if it is on the hub, or a folder that ``datasets`` wrote.

    :raises DataError: A pattern matches no file.
    """
    path = Path(reference.name)
    if is_pattern(reference.name):
        names = sorted(glob(reference.name, recursive=True))  # noqa: PTH207  (a pattern may be absolute)
        found = [Path(name) for name in names if not Path(name).is_dir()]
        if not found:
            raise DataError(f"no file matches {reference.name}", "Check the pattern, as in --data 'docs/*.txt'.")
        return found
    if not path.is_dir():
        return [path] if path.exists() else []
    if any((path / name).exists() for name in ("dataset_dict.json", "dataset_info.json")):
        return []
    inside = [item.relative_to(path) for item in sorted(path.rglob("*")) if not item.is_dir()]
    found = [path / item for item in inside if not any(part.startswith(".") for part in item.parts)]
    if not found:
        raise DataError(f"the folder {path} has no files", "Give a folder of texts or rows, or a file.")
    return found


def _read_files(files: Sequence[Path], reference: DataRef, form: RowForm) -> Iterator[Document]:
    """Yield the documents of files; of several, an id begins with the path below the folder that holds them all."""
    above = os.path.commonpath([file.parent for file in files])
    for file in files:
        name = os.path.relpath(file, above)
        for document in _read_file(file, reference, form):
            yield replace(document, id=name + document.id.removeprefix(file.name))


def _read_file(path: Path, reference: DataRef, form: RowForm) -> Iterable[Document]:
    """Return the documents of one file."""
    reference = replace(reference, name=str(path))
    if path.suffix.lower() in ROW_FILES:
        return from_rows(read_rows(path), reference, form)
    return _from_text(path, reference)


def _from_text(path: Path, reference: DataRef) -> Iterator[Document]:
    if reference.column:
        raise UsageError(f"{path} is plain text and has no column '{reference.column}'", f"Give --data {path} alone.")
    text = read_plain(path)
    if text.strip():
        yield Document(path.name, text)


# --- datasets --------------------------------------------------------------------------------------------------------


def _read_folder(path: Path) -> Iterable[Row]:
    if (path / "dataset_dict.json").exists():
        splits = sorted(item.name for item in path.iterdir() if (item / "dataset_info.json").exists())
        if "train" not in splits and len(splits) != 1:
            raise DataError(
                f"{path} has no split train, only {', '.join(splits) or '(none)'}",
                f"Give the folder of one split, as in {path / (splits or ['test'])[0]}",
            )
        path = path / ("train" if "train" in splits else splits[0])
    return _load_with_datasets(str(path), lambda datasets: datasets.load_from_disk(str(path)))


def check_data(spec: str) -> None:
    """Refuse a data set that is not on this machine, nor named like one on the hub, which is not asked.

    :param spec: See ``load_data``.
    :raises DataError: It is neither.
    :raises UsageError: ``spec`` cannot be read.
    """
    reference = parse_data(spec)
    if not _files(reference) and not Path(reference.name).is_dir():
        _check_hub_name(reference.name)


def _check_hub_name(name: str) -> None:
    looks_local = name.count("/") > 1 or name.startswith((".", "/", "~")) or "\\" in name
    looks_local = looks_local or ("/" in name and Path(name).parent.is_dir())
    if looks_local or is_known_suffix(name):
        raise DataError(f"there is no file {name}", "Check the path; relative paths start at the current folder.")


def read_hub(reference: DataRef) -> Iterable[Row]:
    """Return the rows of a data set on the hub, by default of the split ``train``.

    :raises DataError: The name, config or split does not exist, or the hub cannot be reached.
    """
    name = reference.name
    _check_hub_name(name)
    return _load_with_datasets(
        str(reference),
        lambda datasets: datasets.load_dataset(name, reference.config, split=reference.split or "train"),
    )


def _load_with_datasets(name: str, load: Callable[[Any], Any]) -> Iterator[Row]:
    import datasets
    from datasets.exceptions import DatasetsError
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    had_bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        rows = load(datasets)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error
        raise DataError(
            f"cannot load {name}: {str(cause).strip().partition(chr(10))[0] or type(cause).__name__}",
            "Check its name, config and split (ID:CONFIG:SPLIT:COLUMN) and the connection, or give a local file.",
        ) from error
    finally:
        if had_bars:
            enable_progress_bars()
    return ({column: drop_fillers(value) for column, value in row.items()} for row in rows)
