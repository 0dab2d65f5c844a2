"""A check of a chat template's output against the messages, for texts and tool calls left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from taskarith.data.fields import parse_json
from taskarith.errors import DataError

__all__ = ["LeftOutError", "Message", "Written", "as_object", "check_written", "drops_reasoning", "mark"]

Message: TypeAlias = dict[str, Any]

_THOUGHTS_END = re.compile(r"</(?:\w+:)?(?:think|thinking|thought|thoughts|reasoning)>|\[/THINK\]")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


class LeftOutError(DataError):
    """A template leaves out part of a message.

    :param number: Number of the message, from 1.
    """

    def __init__(self, message: str, hint: str, number: int = 0) -> None:
        super().__init__(message, hint)
        self.number = number


@dataclass(frozen=True)
class Written:
    """A template's output, without case and white space, which templates strip and change.

    :param whole: The chat.
    :param border: Start of the answer in it.
    :param marked: The chat with marks at the ends of messages, see ``mark``; None if the template refuses them.
    """

    whole: str
    border: int
    marked: str | None

    @classmethod
    def of(cls, whole: str, prompt: str, marked: str | None) -> Written:
        """Normalise the template's output."""
        return cls(_squeeze(whole), len(_squeeze(prompt)), None if marked is None else _squeeze(marked))

    def has(self, text: str, *, in_answer: bool) -> bool:
        """Tell whether a text, as it is or in JSON, ends after the border (in the answer) or before it."""
        spellings = {text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]}
        return any(self._has(_squeeze(spelling), in_answer) for spelling in spellings)

    def _has(self, text: str, in_answer: bool) -> bool:
        start = self.whole.rfind(text) if in_answer else self.whole.find(text)
        end = start + len(text)
        return start >= 0 and (end > self.border if in_answer else end <= self.border)

    def has_mark(self, number: int) -> bool:
        """Tell whether the mark of a message was written; True if unknown."""
        return self.marked is None or _mark(number) in self.marked


def mark(messages: Sequence[Message]) -> list[Message]:
    """Append a mark to each text, whose words may occur in a template by chance."""
    return [_with_mark(message, _mark(number)) for number, message in enumerate(messages, 1)]


def check_written(messages: Sequence[Message], id_: str, written: Written) -> None:
    """Check that all texts and tool calls were written, those before the answer before the border.

    :param id_: Id of the document.
    :raises LeftOutError: One was left out.
    """
    for number, message in enumerate(messages, 1):
        check = _Check(number, message, f"message {number} ({message['role']}) of {id_}", number == len(messages))
        check.text(written)
        check.parts(written)
        check.calls(written)


def drops_reasoning(answer: Message, written: Written) -> bool:
    """Tell whether the reasoning of an answer, inside its text or separate, was left out."""
    reasoning = [text for text in _texts(answer) if _after_thoughts(text) != text]
    reasoning += [answer[key] for key in _REASONING_KEYS if isinstance(answer.get(key), str)][:1]
    return not all(written.has(text, in_answer=True) for text in reasoning)


def as_object(arguments: Any) -> Any:
    """Return a call's arguments as an object if they are one, or the JSON of one."""
    read = parse_json(arguments) if isinstance(arguments, str) else arguments
    return read if isinstance(read, Mapping) else arguments


@dataclass(frozen=True)
class _Check:
    """One message to find in the output.

    :param where: Names it in errors.
    """

    number: int
    message: Message
    where: str
    is_answer: bool

    def text(self, written: Written) -> None:
        needed = _needed(self.message)
        is_marked = not needed or written.has_mark(self.number)
        if is_marked and all(written.has(text, in_answer=self.is_answer) for text in needed):
            return
        if self.is_answer:
            self._refuse(
                f"leaves out the answer, {self.where}, which would not be learned",
                "Use a template that includes it, or write the rows as prompt and completion.",
            )
        if is_marked and all(_squeeze(text) in written.whole for text in needed):
            self._refuse(
                f"begins differently when it asks for an answer, so {self.where} would be learned, too",
                "Remove reasoning from earlier answers, or write the rows as prompt and completion.",
            )
        self._refuse(
            f"leaves out the text of {self.where}",
            "Put it at the start of the first user message, or remove it."
            if self.message["role"] == "system"
            else "Use a template that includes it, or write the rows as prompt and completion.",
        )

    def parts(self, written: Written) -> None:
        content = self.message.get("content", "")
        for part in [] if isinstance(content, str) else content:
            raw = {str(part), json.dumps(part, ensure_ascii=False)}
            if self.message["role"] == "tool":  # templates write tool results as JSON
                raw = {str(part)}
            if any(_squeeze(form) in written.whole for form in raw):
                self._refuse(f"writes the parts of {self.where} as a list, including brackets", "Write a text instead.")

    def calls(self, written: Written) -> None:
        hint = "Use a template that includes tool calls, or write the call into the content."
        for call in self.message.get("tool_calls", []):
            function = call.get("function", call)
            arguments, name = function.get("arguments"), f"the tool call {function['name']} of {self.where}"
            if not written.has(function["name"], in_answer=self.is_answer):
                self._refuse(f"leaves out {name}", hint)
            for value in _leaves(as_object(arguments)):
                if not written.has(value, in_answer=self.is_answer):
                    self._refuse(f"leaves out the argument '{value}' of {name}", hint)
            if any(_squeeze(form) in written.whole for form in _misspellings(arguments)):
                self._refuse(
                    f"writes the arguments of {name} as a quoted string or a Python object instead of JSON", hint
                )

    def _refuse(self, fault: str, hint: str) -> NoReturn:
        raise LeftOutError(f"the chat template {fault}", hint, self.number)


def _squeeze(text: str) -> str:
    return "".join(text.split()).casefold()


def _mark(number: int) -> str:
    return f"zq{number}qz"


def _with_mark(message: Message, sign: str) -> Message:
    content = message.get("content", "")
    if not _texts(message):
        return message
    if isinstance(content, str):
        return {**message, "content": content + sign}
    last = max(number for number, part in enumerate(content) if part["text"].strip())
    parts = [{**part, "text": part["text"] + sign} if number == last else part for number, part in enumerate(content)]
    return {**message, "content": parts}


def _texts(message: Message) -> list[str]:
    content = message.get("content", "")
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    return [text for text in texts if text.strip()]


def _needed(message: Message) -> list[str]:
    """Return the texts that must be written; the assistant's without reasoning, if anything follows it."""
    texts = _texts(message)
    if message["role"] != "assistant":
        return texts
    answers = [answer for text in texts if (answer := _after_thoughts(text)).strip()]
    return answers or ([] if message.get("tool_calls") else texts)


def _after_thoughts(text: str) -> str:
    ends = [match.end() for match in _THOUGHTS_END.finditer(text)]
    return text[ends[-1] :] if ends else text


def _leaves(value: Any) -> Iterator[str]:
    """Yield the texts and numbers in the arguments of a call."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None and str(value).strip():
        yield str(value)


def _misspellings(arguments: Any) -> set[str]:
    """Return wrong spellings of arguments: JSON quoted as a string, or an object in Python syntax."""
    if not arguments:
        return set()
    as_json = {json.dumps(arguments), json.dumps(arguments, ensure_ascii=False)}
    return as_json if isinstance(arguments, str) else {str(arguments)} - as_json
