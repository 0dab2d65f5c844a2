"""Rendering of chats by a chat template, in a form that it supports and with nothing left out."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeAlias

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from taskarith.data.documents import CHAT_DAY, Document
from taskarith.data.template_check import (
    LeftOutError,
    Message,
    Written,
    as_object,
    check_written,
    drops_reasoning,
    mark,
)
from taskarith.errors import DataError

__all__ = ["Rendering", "common_length", "remark_on_day", "render_chat"]

_NOW, _TODAY = "strftime_now", "date_string"
_CALL = re.compile(rf"""\b{_NOW}\s*\(\s*(?:format\s*=\s*)?(?P<quote>["'])(?P<format>[^"'\\]*)(?P=quote)\s*\)""")

Render: TypeAlias = Callable[..., str]


@dataclass(frozen=True)
class Rendering:
    """A chat as text.

    :param prompt: The text before the answer, including the generation prompt.
    :param whole: The whole text, which starts with ``prompt``.
    :param drops_reasoning: Whether the template leaves out the reasoning of the answer.
    """

    prompt: str
    whole: str
    drops_reasoning: bool

    @property
    def learned(self) -> str:
        """The text after the prompt."""
        return self.whole[len(self.prompt) :]


def render_chat(document: Document, tokenizer: PreTrainedTokenizerBase) -> Rendering:
    """Render a chat with the tokenizer's chat template, and check that every message is written.

    Some templates expect content as text and others as a list of parts, some expect arguments of tool calls as objects
    and others as JSON: a chat is tried as it is, then in other forms, and the first one written completely is used. A
    template may leave out the reasoning of assistant messages.

    :param document: A document with messages.
    :raises DataError: There is no template; it refuses the chat; or every form would leave out a message, a tool call,
        the tools, the documents, or another column that the template reads.
    """
    if not tokenizer.chat_template:
        raise DataError(
            f"{document.id} is a chat, but the model's tokenizer has no chat template",
            "Use a chat model, or write the rows as prompt and completion.",
        )
    render = _renderer(document, tokenizer)
    failures: list[DataError] = []
    for messages in _forms(document.messages or ()):
        try:
            rendering = _render_form(messages, document.id, render)
        except DataError as error:
            failures.append(error)
            continue
        _refuse_ignored(messages, document, rendering.whole, render)
        _refuse_unread(messages, document, rendering.whole, render, _reserved(tokenizer))
        return rendering
    raise max(failures, key=_progress)  # the first of equals, since the other forms do not fit


def _render_form(messages: list[Message], id_: str, render: Render) -> Rendering:
    """Render messages in one form.

    :raises DataError: The template refuses them, or leaves something out.
    """
    whole = render(messages)
    prompt = whole[: common_length(whole, render(messages[:-1], ask=True))]
    try:
        marked = render(mark(messages))
    except DataError:
        marked = None
    written = Written.of(whole, prompt, marked)
    check_written(messages, id_, written)
    return Rendering(prompt, whole, drops_reasoning(messages[-1], written))


def _progress(failure: DataError) -> int:
    """Rank a failure by how far the template got: the message left out, its own refusal, or a crash."""
    if isinstance(failure, LeftOutError):
        return failure.number
    return 0 if type(failure.__cause__) is TemplateError else -1


def common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return the length of the common prefix of two sequences."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _renderer(document: Document, tokenizer: PreTrainedTokenizerBase) -> Render:
    """Return a function that renders messages with the row's variables, or with others.

    :raises DataError: The row sets a reserved variable.
    """
    reserved = _reserved(tokenizer) - {"tools", "documents"}
    if reserved_names := [name for name in document.variables if name in reserved]:
        raise DataError(
            f"chat_template_kwargs of {document.id} sets {reserved_names[0]}, which is not a template variable",
            "Remove it.",
        )

    def render(messages: list[Message], *, ask: bool = False, variables: Mapping[str, Any] = document.variables) -> str:
        if not messages:
            return ""
        try:
            options: dict[str, Any] = {
                "tokenize": False,
                "add_generation_prompt": ask,
                **_today(tokenizer),
                **variables,
            }
            if _NOW in str(tokenizer.chat_template):
                options["chat_template"] = _with_day(tokenizer.get_chat_template(tools=variables.get("tools")))
            return str(tokenizer.apply_chat_template(messages, **options))
        except Exception as error:  # third-party templates may raise anything, such as RecursionError
            hint = "Use the roles and the order that it supports"
            if type(error) is not TemplateError:  # it crashed rather than refused
                hint += ", or correct the template"
            reason = str(error) or type(error).__name__
            raise DataError(f"the chat template refuses {document.id}: {reason}", f"{hint}.") from error

    return render


def _reserved(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    return {*inspect.signature(tokenizer.apply_chat_template).parameters, "messages", "add_generation_prompt", _NOW}


def remark_on_day(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return a remark on a chat template that writes the date; None for others."""
    template = str(tokenizer.chat_template)
    if _NOW not in template and not _today(tokenizer):
        return None
    if _NOW in _with_day(template).replace(f"{_NOW} is defined", ""):
        return "the chat template writes the date in a way that cannot be fixed, so tokens may change from day to day"
    return f"the chat template writes the date, which is always {CHAT_DAY:%d %b %Y} here"


def _today(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return the date as the variable of Llama 3's templates, if the template reads it."""
    return {_TODAY: f"{CHAT_DAY:%d %b %Y}"} if _TODAY in str(tokenizer.chat_template) else {}


def _with_day(template: str) -> str:
    """Return a chat template with a fixed date instead of today's.

    transformers does not accept functions as template variables, so the calls are replaced.
    """
    return _CALL.sub(lambda call: json.dumps(CHAT_DAY.strftime(call["format"]), ensure_ascii=False), template)


# --- forms -----------------------------------------------------------------------------------------------------------


def _forms(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield the messages as they are, then in other forms that templates expect, without repeats."""
    tried: list[list[Message]] = []
    for change_arguments in (_same, as_object, _as_json):
        for change_content in (_as_written, _as_text, _as_parts):
            form = [_with_arguments(change_content(message), change_arguments) for message in messages]
            if form not in tried:
                tried.append(form)
                yield form


def _as_written(message: Message) -> Message:
    return message


def _as_text(message: Message) -> Message:
    content = message.get("content", "")
    return {**message, "content": content if isinstance(content, str) else "".join(part["text"] for part in content)}


def _as_parts(message: Message) -> Message:
    content = message.get("content", "")
    return {**message, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}


def _with_arguments(message: Message, change: Callable[[Any], Any]) -> Message:
    """Change the arguments of all calls; drop an empty list of calls, which some templates misread."""
    calls = message.get("tool_calls")
    if not calls:
        return {key: value for key, value in message.items() if key != "tool_calls"}
    return {**message, "tool_calls": [_with_call(call, change) for call in calls]}


def _with_call(call: Message, change: Callable[[Any], Any]) -> Message:
    if "function" in call:
        return {**call, "function": _with_call(call["function"], change)}
    return {**call, "arguments": change(call["arguments"])} if call.get("arguments") is not None else call


def _same(arguments: Any) -> Any:
    return arguments


def _as_json(arguments: Any) -> Any:
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, Mapping) else arguments


# --- variables besides the messages ----------------------------------------------------------------------------------


def _refuse_ignored(messages: list[Message], document: Document, whole: str, render: Render) -> None:
    """Refuse tools and documents that a template leaves out."""
    given = document.variables
    for name in [name for name in ("tools", "documents") if given.get(name)]:
        if render(messages, variables={key: value for key, value in given.items() if key != name}) == whole:
            raise DataError(
                f"the chat template leaves out the {name} of {document.id}",
                f"Use a template that includes {name}, put them into the system message, or remove the column.",
            )


def _refuse_unread(
    messages: list[Message], document: Document, whole: str, render: Render, reserved: Collection[str]
) -> None:
    """Refuse a column that the template would read but does not get, since its name may mean something else."""

    def changes(columns: Mapping[str, Any]) -> bool:
        try:
            return render(messages, variables={**columns, **document.variables}) != whole
        except DataError:
            return True

    columns = {key: value for key, value in document.unused.items() if key.isidentifier() and key not in reserved}
    if columns and changes(columns):
        name = next((key for key, value in columns.items() if changes({key: value})), next(iter(columns)))
        raise DataError(
            f"the chat template reads {name}, a column of {document.id} that it does not get",
            f'Write it as "chat_template_kwargs": {{"{name}": ...}}, or rename the column.',
        )
