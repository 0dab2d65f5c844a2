"""Conversion of rows to documents: text, prompt and completion, question and answer, or chat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

from taskarith.data.chats import answer_text, is_chat, join_completion, read_messages, read_variables
from taskarith.data.fields import filled_field, parse_json, text_field
from taskarith.data.spec import DataRef
from taskarith.errors import DataError, UsageError

__all__ = ["ANSWER_ALONE", "CHAT_DAY", "Document", "Row", "RowForm", "chat_of", "from_rows"]

CHAT_DAY = date(2025, 4, 10)
"""The date given to chat templates, as in open-unlearning, so that tokens do not depend on the day."""

_NO_TOOLS = (None, "", "[]", [])

Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Document:
    """One text, prompt with completion, or chat; ids are unique in a data set.

    :param id: The file's name (of several, its path below the folder of all), with a colon and the row number (from 1)
        for rows.
    :param text: The whole text, the completion of a prompt, or the last assistant message of a chat (its tool calls as
        JSON if it has no text).
    :param prompt: Text before ``text`` that is not learned; None for plain text.
    :param messages: The whole chat, the assistant's answer last; None otherwise.
    :param ends_with_eos: For a chat: its last token is EOS, whatever the template writes after an answer.
    :param variables: Variables of the chat template besides the messages: tools, documents and settings.
    :param unused: Unused columns of a chat's row.
    """

    id: str
    text: str
    prompt: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    ends_with_eos: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)
    unused: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class RowForm:
    """How questions and chats are formatted.

    :param apply_chat_template: Write a question and its answer as a chat that ends with EOS, as open-unlearning does.
    :param system_prompt: System message of every chat; empty for none.
    :param learns_tag: For a question not written as a chat, make the tag ``Answer:`` part of the answer, as TOFU's own
        code does, rather than the end of the prompt.
    :raises UsageError: The system prompt is blank.
    """

    apply_chat_template: bool = False
    system_prompt: str = ""
    learns_tag: bool = False

    def __post_init__(self) -> None:
        if self.system_prompt and not self.system_prompt.strip():
            raise UsageError("--system-prompt is blank", "Give a text, or leave it out.")

    def begin(self, messages: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        """Prepend the system prompt, if there is one, to messages."""
        return ({"role": "system", "content": self.system_prompt}, *messages) if self.system_prompt else messages


ANSWER_ALONE = RowForm()


def chat_of(id_: str, question: str, answer: str, form: RowForm) -> Document:
    """Return a question and its answer as a chat."""
    messages = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Document(id_, answer, messages=form.begin(messages), ends_with_eos=True)


def from_rows(rows: Iterable[Row], reference: DataRef, form: RowForm = ANSWER_ALONE) -> Iterator[Document]:
    """Return the documents of all rows, whose kind is set by the first row's columns.

    :param reference: Names the data set and, optionally, a column.
    :param form: How questions and chats are formatted.
    :raises DataError: A row lacks a required value.
    """
    name = Path(reference.name).name
    convert: Callable[[Row, str], Document | None] | None = None
    for number, row in enumerate(rows, 1):
        if convert is None:
            convert = _converter(row, reference, form)
        if document := convert(row, f"{name}:{number}"):
            yield document


def _converter(row: Row, reference: DataRef, form: RowForm) -> Callable[[Row, str], Document | None]:
    """Return the conversion that matches the columns of the first row."""
    columns = [str(column) for column in row]
    if reference.column is not None:
        if reference.column not in columns:
            raise DataError(
                f"{reference.name} has no column '{reference.column}'", f"Use one of its columns: {', '.join(columns)}"
            )
        column = reference.column
        if isinstance(row[column], str) and not is_chat(parse_json(row[column])):
            return lambda row, id_: _plain(row, column, id_)
        return lambda row, id_: _chat(row, column, id_, form)
    for needed, convert in _KINDS:
        if set(needed) <= set(columns):
            return lambda row, id_: convert(row, id_, form)
    known = "text, prompt and completion, question and answer, messages, or conversations"
    raise DataError(
        f"{reference.name} has the columns {', '.join(columns)} instead of {known}",
        "Rename them, or name the column of the text, as in FILE:COLUMN or ID:CONFIG:SPLIT:COLUMN.",
    )


def _plain(row: Row, column: str, id_: str) -> Document | None:
    text = text_field(row, column, id_)
    return Document(id_, text) if text.strip() else None


def _completion(row: Row, id_: str, form: RowForm) -> Document:
    if any(isinstance(row.get(column), list | tuple) for column in ("prompt", "completion")):
        return _chat_document(join_completion(row, id_), row, ["prompt", "completion"], id_, form)
    _refuse_context(row, id_)
    return Document(id_, filled_field(row, "completion", id_), prompt=text_field(row, "prompt", id_))


def _question(row: Row, id_: str, form: RowForm) -> Document:
    _refuse_context(row, id_)
    question, answer = filled_field(row, "question", id_), filled_field(row, "answer", id_)
    if form.apply_chat_template:
        return chat_of(id_, question, answer, form)
    if form.learns_tag:
        return Document(id_, f"Answer: {answer}", prompt=f"Question: {question}\n")
    return Document(id_, f" {answer}", prompt=f"Question: {question}\nAnswer:")


def _refuse_context(row: Row, id_: str) -> None:
    """Refuse columns that only a chat can include."""
    system, tools = row.get("system"), row.get("tools")
    for column, value in (("system", isinstance(system, str) and system.strip()), ("tools", tools not in _NO_TOOLS)):
        if value:
            raise DataError(
                f"{id_} has a column {column} in addition to its prompt, which would be ignored",
                f"Write the rows as chats, write {column} into the prompt, or rename the column.",
            )


def _chat(row: Row, column: str, id_: str, form: RowForm) -> Document:
    return _chat_document(read_messages(row, column, id_), row, [column], id_, form)


def _chat_document(
    messages: tuple[dict[str, Any], ...], row: Row, used: Sequence[str], id_: str, form: RowForm
) -> Document:
    variables, unused = read_variables(row, used, id_)
    if form.system_prompt and messages[0]["role"] in _SYSTEM_ROLES:
        raise DataError(
            f"{id_} has its own {messages[0]['role']} message in addition to --system-prompt",
            "Leave out --system-prompt, and add a system message to the rows without one.",
        )
    return Document(id_, answer_text(messages), messages=form.begin(messages), variables=variables, unused=unused)


_SYSTEM_ROLES = {"system", "developer"}

_KINDS: tuple[tuple[tuple[str, ...], Callable[[Row, str, RowForm], Document | None]], ...] = (
    (("messages",), lambda row, id_, form: _chat(row, "messages", id_, form)),
    (("prompt", "completion"), _completion),
    (("question", "answer"), _question),
    (("text",), lambda row, id_, _: _plain(row, "text", id_)),
    (("conversations",), lambda row, id_, form: _chat(row, "conversations", id_, form)),
    (("conversation",), lambda row, id_, form: _chat(row, "conversation", id_, form)),
)
"""Conversions by required columns; the first match is used."""
