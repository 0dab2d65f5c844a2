"""What a chat template wrote, held against the messages: a text or a tool call that it left out is found."""

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
    """A template leaves something out.

    :param number: Of the message; the first is 1.
    """

    def __init__(self, message: str, hint: str, number: int = 0) -> None:
        super().__init__(message, hint)
        self.number = number


@dataclass(frozen=True)
class Written:
    """What a template wrote; all texts are without white space, which templates strip and change, and without case.

    :param whole: The chat.
    :param border: Where the answer begins in it.
    :param marked: The chat with a mark at the end of each message, from ``mark``; None if the template refuses that.
    """

    whole: str
    border: int
    marked: str | None

    @classmethod
    def of(cls, whole: str, prompt: str, marked: str | None) -> Written:
        """Take texts as the template wrote them."""
        return cls(_squeeze(whole), len(_squeeze(prompt)), None if marked is None else _squeeze(marked))

    def has(self, text: str, *, in_answer: bool) -> bool:
        """Return whether a text, or what it is within JSON, ends behind the border, or stands before it."""
        spellings = {text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]}
        return any(self._has(_squeeze(spelling), in_answer) for spelling in spellings)

    def _has(self, text: str, in_answer: bool) -> bool:
        place = self.whole.rfind(text) if in_answer else self.whole.find(text)
        end = place + len(text)
        return place >= 0 and (end > self.border if in_answer else end <= self.border)

    def has_mark(self, number: int) -> bool:
        """Return whether the mark of a message was written, as far as that is known."""
        return self.marked is None or _mark(number) in self.marked


def mark(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with a mark at the end of each text: its words may be in a template by chance."""
    return [_with_mark(message, _mark(number)) for number, message in enumerate(messages, 1)]


def check_written(messages: Sequence[Message], id_: str, written: Written) -> None:
    """See that all texts and tool calls are there, those before the answer before the border.

    :param id_: Of the document.
    :raises LeftOutError: Something is not.
    """
    for number, message in enumerate(messages, 1):
        check = _Check(number, message, f"message {number} ({message['role']}) of {id_}", number == len(messages))
        check.text(written)
        check.parts(written)
        check.calls(written)


def drops_reasoning(answer: Message, written: Written) -> bool:
    """Return whether the reasoning in an answer, or beside it, was left out."""
    reasoning = [text for text in _texts(answer) if _after_thoughts(text) != text]
    reasoning += [answer[key] for key in _REASONING_KEYS if isinstance(answer.get(key), str)][:1]
    return not all(written.has(text, in_answer=True) for text in reasoning)


def as_object(arguments: Any) -> Any:
    """Return the arguments of a call as an object, if they are one or the JSON of one."""
    read = parse_json(arguments) if isinstance(arguments, str) else arguments
    return read if isinstance(read, Mapping) else arguments


@dataclass(frozen=True)
class _Check:
    """One message that is looked for.

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
                f"leaves out the answer, {self.where}: it would not be learned",
                "Use a template that writes it, or write the rows as prompt and completion.",
            )
        if is_marked and all(_squeeze(text) in written.whole for text in needed):
            self._refuse(
                f"begins otherwise when it asks for an answer, so that {self.where} would be learned, too",
                "Take reasoning out of the earlier answers, or write the rows as prompt and completion.",
            )
        self._refuse(
            f"leaves out the text of {self.where}",
            "Write it at the head of the first user message, or take it out."
            if self.message["role"] == "system"
            else "Use a template that writes it, or write the rows as prompt and completion.",
        )

    def parts(self, written: Written) -> None:
        content = self.message.get("content", "")
        for part in [] if isinstance(content, str) else content:
            raw = {str(part), json.dumps(part, ensure_ascii=False)}
            if self.message["role"] == "tool":  # templates write what tools return as JSON
                raw = {str(part)}
            if any(_squeeze(form) in written.whole for form in raw):
                self._refuse(f"writes the parts of {self.where} as a list, brackets and all", "Write a text instead.")

    def calls(self, written: Written) -> None:
        hint = "Use a template that writes tool calls, or write the call into the content."
        for call in self.message.get("tool_calls", []):
            function = call.get("function", call)
            arguments, what = function.get("arguments"), f"the tool call {function['name']} of {self.where}"
            if not written.has(function["name"], in_answer=self.is_answer):
                self._refuse(f"leaves out {what}", hint)
            for value in _leaves(as_object(arguments)):
                if not written.has(value, in_answer=self.is_answer):
                    self._refuse(f"leaves out the argument '{value}' of {what}", hint)
            if any(_squeeze(form) in written.whole for form in _misspellings(arguments)):
                self._refuse(f"writes the arguments of {what} as a quoted string or a Python object, not as JSON", hint)

    def _refuse(self, what: str, hint: str) -> NoReturn:
        raise LeftOutError(f"the chat template {what}", hint, self.number)


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
    """Return the texts that must be written: of the assistant what follows its reasoning, if anything does."""
    texts = _texts(message)
    if message["role"] != "assistant":
        return texts
    answers = [answer for text in texts if (answer := _after_thoughts(text)).strip()]
    return answers or ([] if message.get("tool_calls") else texts)


def _after_thoughts(text: str) -> str:
    ends = [match.end() for match in _THOUGHTS_END.finditer(text)]
    return text[ends[-1] :] if ends else text


def _leaves(value: Any) -> Iterator[str]:
    """Return the texts and numbers in the arguments of a call."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None and str(value).strip():
        yield str(value)


def _misspellings(arguments: Any) -> set[str]:
    """Return JSON quoted as one string, or an object as Python writes it, where that is not JSON."""
    if not arguments:
        return set()
    as_json = {json.dumps(arguments), json.dumps(arguments, ensure_ascii=False)}
    return as_json if isinstance(arguments, str) else {str(arguments)} - as_json
