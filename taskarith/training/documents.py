"""A row of a data set becomes a document: text, prompt and completion, question and answer, or chat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from taskarith.errors import DataError
from taskarith.spec import DataRef

__all__ = ["Document", "Row", "from_rows"]

Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Document:
    """One piece of data; ids are unique in a data set.

    :param id: The file's name, with the row after a colon where there are rows (the first is 1).
    :param text: The whole text, or the completion of a prompt, or the last assistant message of a chat.
    :param prompt: What precedes ``text`` and is not learned; None for plain text.
    :param messages: The whole chat, the assistant's answer last; None for anything else.
    """

    id: str
    text: str
    prompt: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None


def from_rows(rows: Iterable[Row], reference: DataRef) -> Iterator[Document]:
    """Return the documents of all rows; the first row's columns tell how they are read.

    :param reference: Names the data set, and perhaps a column.
    :raises DataError: A row has not what is needed.
    """
    name = Path(reference.name).name
    convert: Callable[[Row, str], Document | None] | None = None
    for number, row in enumerate(rows, 1):
        if convert is None:
            convert = _converter(row, reference)
        if document := convert(row, f"{name}:{number}"):
            yield document


def _converter(row: Row, reference: DataRef) -> Callable[[Row, str], Document | None]:
    """Return the reading that fits the columns of the first row."""
    columns = [str(column) for column in row]
    if reference.column is not None:
        if reference.column not in columns:
            raise DataError(
                f"{reference.name} has no column '{reference.column}'", f"Its columns are: {', '.join(columns)}"
            )
        column = reference.column
        if isinstance(row[column], str):
            return lambda row, id_: _plain(row, column, id_)
        return lambda row, id_: _chat(row, column, id_)
    for needed, convert in _KINDS:
        if set(needed) <= set(columns):
            return convert
    known = "text, prompt and completion, question and answer, or messages"
    raise DataError(
        f"{reference.name} has the columns {', '.join(columns)}, and not {known}",
        "Name the column of the text last, as in FILE:COLUMN or ID:CONFIG:SPLIT:COLUMN.",
    )


def _plain(row: Row, column: str, id_: str) -> Document | None:
    text = _string(row, column, id_)
    return Document(id_, text) if text.strip() else None


def _completion(row: Row, id_: str) -> Document:
    return Document(id_, _filled(row, "completion", id_), prompt=_string(row, "prompt", id_))


def _question(row: Row, id_: str) -> Document:
    question, answer = _filled(row, "question", id_), _filled(row, "answer", id_)
    return Document(id_, f" {answer}", prompt=f"Question: {question}\nAnswer:")


def _chat(row: Row, column: str, id_: str) -> Document:
    messages = row.get(column)
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise DataError(f"{column} of {id_} is no list of messages", 'Write [{"role": ..., "content": ...}, ...].')
    kept: list[dict[str, Any]] = []
    for message in messages:
        if not isinstance(message, Mapping):
            raise DataError(f"a message of {id_} is no object", 'Write {"role": ..., "content": ...}.')
        _filled(message, "role", id_)
        _string(message, "content", id_)
        kept.append({key: value for key, value in message.items() if value is not None})
    if kept[-1]["role"] != "assistant":
        raise DataError(
            f"the last message of {id_} is of role '{kept[-1]['role']}'",
            "End each chat with the assistant's answer: it is what is learned.",
        )
    return Document(id_, _filled(kept[-1], "content", id_), messages=tuple(kept))


def _string(row: Row, column: str, id_: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        what = "missing" if value is None else f"of type {type(value).__name__}, not text"
        raise DataError(f"{column} of {id_} is {what}", "Give every row the same columns, filled with text.")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise DataError(f"{column} of {id_} holds half of a surrogate pair", "Correct the text: it is no Unicode.")
    return value


def _filled(row: Row, column: str, id_: str) -> str:
    text = _string(row, column, id_)
    if not text.strip():
        raise DataError(f"{column} of {id_} is empty", "Fill it, or take the row out.")
    return text


_KINDS: tuple[tuple[tuple[str, ...], Callable[[Row, str], Document | None]], ...] = (
    (("messages",), lambda row, id_: _chat(row, "messages", id_)),
    (("prompt", "completion"), _completion),
    (("question", "answer"), _question),
    (("text",), lambda row, id_: _plain(row, "text", id_)),
)
"""What rows hold, by the columns that tell; the first that fits is taken."""
