"""Chats from rows in the formats of OpenAI, ShareGPT and TRL: messages, and further variables of a chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from taskarith.data.fields import filled_field, list_field, parse_json, text_field
from taskarith.errors import DataError

__all__ = ["answer_text", "is_chat", "join_completion", "read_messages", "read_variables"]

_SHAREGPT_ROLES = {role: role for role in ("user", "assistant", "system", "tool")}
_SHAREGPT_ROLES |= {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool"}
_MESSAGE = 'Write {"role": ..., "content": ...}.'


def read_messages(row: Mapping[str, Any], column: str, id_: str) -> tuple[dict[str, Any], ...]:
    """Return the messages of a row, each with a role and, unless it calls tools, content.

    ShareGPT messages (``from`` and ``value``) become OpenAI messages, with a column ``system`` as first message. Keys
    with value None are dropped.

    :param column: Column with a list of messages, or the JSON of one.
    :raises DataError: A message is broken, or contains something other than text.
    """
    messages = row.get(column)
    if isinstance(messages, str):
        messages = parse_json(messages)
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError(f"{column} of {id_} is not a list of messages", 'Write [{"role": ..., "content": ...}, ...].')
    read = tuple(_message(message, f"message {number} of {id_}") for number, message in enumerate(messages, 1))
    if read[-1]["role"] != "assistant":
        raise DataError(
            f"the last message of {id_} has the role '{read[-1]['role']}'",
            "End each chat with the assistant's answer, which is what is learned.",
        )
    if not answer_text(read):
        raise DataError(f"content of message {len(read)} of {id_} is empty", "Fill it in, or remove the row.")
    return _with_system(row, read, is_sharegpt="from" in messages[0], id_=id_)


def is_chat(value: object) -> bool:
    """Tell whether a value looks like a list of messages."""
    first = value[0] if isinstance(value, list | tuple) and value else None
    return isinstance(first, Mapping) and ("role" in first or "from" in first)


def join_completion(row: Mapping[str, Any], id_: str) -> tuple[dict[str, Any], ...]:
    """Return the messages of a row whose prompt and completion are lists of messages, as in TRL.

    :raises DataError: The completion is not a single assistant message.
    """
    prompt, completion = row.get("prompt"), row.get("completion")
    if not isinstance(prompt, list | tuple) or not isinstance(completion, list | tuple):
        raise DataError(
            f"only one of prompt and completion of {id_} is a list of messages",
            "Write both as text, or both as lists of messages.",
        )
    if len(completion) != 1:
        raise DataError(
            f"completion of {id_} is not a single message",
            "Put all messages before the last answer into the prompt; only the last answer is learned.",
        )
    return read_messages({**row, "messages": [*prompt, *completion]}, "messages", id_)


def read_variables(row: Mapping[str, Any], used: Sequence[str], id_: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a row's variables for a chat template besides the messages, and its unused columns.

    :param used: Columns that are used already.
    :return: ``tools``, ``documents`` and the items of ``chat_template_kwargs``, if any; and the other columns.
    :raises DataError: One of them is broken.
    """
    settings = row.get("chat_template_kwargs") or {}
    if isinstance(settings, str):
        settings = parse_json(settings)
    if not isinstance(settings, Mapping):
        raise DataError(
            f"chat_template_kwargs of {id_} is not an object", 'Write an object, as in {"enable_thinking": false}.'
        )
    variables = {column: items for column in ("tools", "documents") if (items := list_field(row, column, id_))}
    if repeated := [name for name in settings if name in variables]:
        raise DataError(f"{id_} sets {repeated[0]} twice, once in chat_template_kwargs", "Remove one of the two.")
    read = {*used, "tools", "documents", "chat_template_kwargs", "system"}
    others = {str(column): value for column, value in row.items() if value is not None and column not in read}
    return {**variables, **settings}, others


def answer_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the last message, or its tool calls as JSON if it has no text; empty if blank."""
    answer = messages[-1]
    content = answer.get("content", "")
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    if text.strip() or not answer.get("tool_calls"):
        return text if text.strip() else ""
    return json.dumps(answer["tool_calls"], ensure_ascii=False, sort_keys=True)


def _message(given: object, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise DataError(f"{where} is not an object", _MESSAGE)
    message = {str(key): value for key, value in given.items() if value is not None}
    if "from" in message and "role" not in message:
        message = _from_sharegpt(message, where)
    filled_field(message, "role", where)
    if "function_call" in message:
        raise DataError(f"{where} has a function_call", 'Write it as "tool_calls": [{"type": "function", ...}].')
    if "tool_calls" in message:
        message["tool_calls"] = _calls(message, where)
    if "content" in message or not message.get("tool_calls"):
        message["content"] = _content(message, where)
    return message


def _from_sharegpt(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    name = filled_field(message, "from", where)
    if name not in _SHAREGPT_ROLES:
        raise DataError(
            f"{where} is from '{name}', which is not a known role",
            f"Use one of {', '.join(_SHAREGPT_ROLES)}; write tool calls as messages with role and tool_calls.",
        )
    if "value" not in message:
        raise DataError(f"{where} has 'from' but no 'value'", 'Write {"from": "human", "value": "..."}.')
    rest = {key: value for key, value in message.items() if key not in {"from", "value"}}
    return {"role": _SHAREGPT_ROLES[name], "content": message["value"], **rest}


def _content(message: Mapping[str, Any], where: str) -> str | list[dict[str, Any]]:
    content = message.get("content")
    if content is None:
        raise DataError(
            f"content of {where} ({message['role']}) is missing",
            "Fill it in, or remove the message; only messages with tool_calls may lack content.",
        )
    if isinstance(content, str):
        return text_field(message, "content", where)
    if not isinstance(content, list | tuple):
        raise DataError(
            f"content of {where} is of type {type(content).__name__}, not text",
            'Write a text, or a list of parts {"type": "text", "text": "..."}.',
        )
    return [_part(part, f"part {number} of {where}") for number, part in enumerate(content, 1)]


def _part(given: object, where: str) -> dict[str, Any]:
    part = {str(key): value for key, value in given.items() if value is not None} if isinstance(given, Mapping) else {}
    kind = part.get("type", "text")
    if kind != "text" or "text" not in part:
        fault = f"of type '{kind}'" if kind != "text" else 'not an object with "text"'
        raise DataError(
            f"{where} is {fault}; only text is supported",
            'Write {"type": "text", "text": "..."}, or remove the rows with images and audio.',
        )
    text_field(part, "text", where)
    return {"type": "text", **part}


def _calls(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    calls = list_field(message, "tool_calls", where)
    for number, call in enumerate(calls, 1):
        function = call.get("function", call)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name.strip():
            raise DataError(
                f"tool call {number} of {where} does not name a function",
                'Write {"type": "function", "function": {"name": "...", "arguments": {...}}}.',
            )
    return calls


def _with_system(
    row: Mapping[str, Any], messages: tuple[dict[str, Any], ...], *, is_sharegpt: bool, id_: str
) -> tuple[dict[str, Any], ...]:
    """Put a column ``system`` first, as in ShareGPT's files; with other messages its meaning is unclear."""
    system = row.get("system")
    if not isinstance(system, str) or not system.strip():
        return messages
    first = messages[0]
    if first["role"] == "system" and first.get("content") == system:
        return messages
    if is_sharegpt and first["role"] != "system":
        return ({"role": "system", "content": system}, *messages)
    raise DataError(
        f"{id_} has a column system in addition to messages, which would be ignored",
        'Write it as the first message, {"role": "system", "content": ...}, or rename the column.',
    )
