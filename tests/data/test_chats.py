"""Chats in every form that data sets have become the same messages, and what is not text is refused where it stands."""

from __future__ import annotations

import json

import pytest
from rows import ANSWER, CALL, CHAT, USER, load

from taskarith.errors import DataError

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


RESULT = {"role": "tool", "content": "high"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{**USER, "tool_calls": None}, ANSWER], "tools": None},
        {"messages": json.dumps(CHAT), "tools": "[]"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "North."}]},
        {"conversations": [{"from": "user", "value": "Where?"}, {"from": "assistant", "value": "North."}], "id": 1},
        {"conversations": CHAT},
        {"conversation": CHAT, "language": "English"},
    ],
    ids=["nulls", "json", "trl", "sharegpt", "other-names", "conversations", "conversation"],
)
def test_every_form_of_a_chat_is_the_same_data_set(tmp_path, row):
    data = load(tmp_path, row)
    assert data.documents[0].messages == CHAT
    assert data.documents[0].text == "North."
    assert data.fingerprint == "8fac225f53495e2214bf00f3b585d534"  # as it was when only messages were read


def test_a_system_column_of_sharegpt_is_the_first_message(tmp_path):
    chat = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "North."}]
    data = load(tmp_path, {"conversations": chat, "system": "Be brief."}, {"conversations": chat, "system": ""})
    assert data.documents[0].messages == ({"role": "system", "content": "Be brief."}, *CHAT)
    assert data.documents[1].messages == CHAT
    with pytest.raises(DataError, match=r"rows\.jsonl:1 has a column system in addition to messages") as raised:
        load(tmp_path, {"messages": CHAT, "system": "Be brief."})
    assert '{"role": "system"' in raised.value.hint
    system = {"role": "system", "content": "Be brief."}
    assert load(tmp_path, {"messages": [system, *CHAT], "system": "Be brief."}).documents[0].messages[0] == system


def test_tools_calls_and_settings_are_kept(tmp_path):
    silent = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    row = {"messages": [USER, silent, RESULT, ANSWER], "tools": TOOLS, "chat_template_kwargs": {"thinking": False}}
    data = load(tmp_path, {**row, "split": "train", "note": None})
    document = data.documents[0]
    assert document.messages == (USER, {"role": "assistant", "tool_calls": [CALL]}, RESULT, ANSWER)
    assert document.variables == {"tools": TOOLS, "thinking": False}
    assert document.unused == {"split": "train"}
    as_json = [json.dumps(tool) for tool in TOOLS]
    for tools in (json.dumps(TOOLS), as_json):
        assert load(tmp_path, {**row, "tools": tools}).fingerprint == data.fingerprint
    assert load(tmp_path, {**row, "tools": None}).fingerprint != data.fingerprint


def test_an_answer_that_only_calls_tools_has_its_calls_as_text(tmp_path):
    for content in ({}, {"content": None}, {"content": ""}):
        answer = {"role": "assistant", "tool_calls": [CALL], **content}
        assert json.loads(load(tmp_path, {"messages": [USER, answer]}).documents[0].text) == [CALL]


@pytest.mark.parametrize(
    ("row", "message", "hint"),
    [
        ({"messages": [{**USER, "content": None}, ANSWER]}, r"message 1 of rows\.jsonl:1 \(user\) is missing", "tool_"),
        ({"messages": [USER, {**ANSWER, "content": " "}]}, r"content of message 2 of rows\.jsonl:1 is empty", "Fill"),
        ({"messages": [{**USER, "content": {"a": 1}}, ANSWER]}, "message 1 of .* is of type dict, not text", "parts"),
        (
            {"messages": [{**USER, "content": [{"type": "image"}, {"type": "text", "text": "a"}]}, ANSWER]},
            "part 1 of message 1 of .* is of type 'image'; only text is supported",
            "images",
        ),
        ({"messages": [{**USER, "content": ["a"]}, ANSWER]}, "part 1 of message 1 of .* is not an object", '"text"'),
        (
            {"messages": [USER, {**ANSWER, "tool_calls": [{"id": 1}]}]},
            "tool call 1 of message 2 of .* does not name",
            "",
        ),
        ({"messages": [USER, {**ANSWER, "tool_calls": "look"}]}, "tool_calls of message 2 of .* is not a list", "[{"),
        ({"messages": [USER, {**ANSWER, "function_call": {"name": "look"}}]}, "has a function_call", "tool_calls"),
        ({"messages": [USER, "North."]}, "message 2 of .* is not an object", "role"),
        ({"messages": [USER, {"content": "North."}]}, "role of message 2 of .* is missing", ""),
        ({"messages": CHAT, "tools": {"name": "look"}}, r"tools of rows\.jsonl:1 is not a list of objects", '"tools"'),
        ({"messages": CHAT, "tools": "look"}, r"tools of rows\.jsonl:1 is not a list of objects", '"tools"'),
        ({"messages": CHAT, "chat_template_kwargs": 1}, "chat_template_kwargs of .* is not an object", "enable"),
        (
            {"messages": CHAT, "tools": TOOLS, "chat_template_kwargs": {"tools": []}},
            "sets tools twice",
            "one of the two",
        ),
        ({"conversations": [{"from": "narrator", "value": "a"}]}, "message 1 of .* is from 'narrator'", "human"),
        ({"conversations": [{"from": "gpt"}]}, "message 1 of .* has 'from' but no 'value'", "value"),
        (
            {"conversations": [{"from": "human", "value": "a"}]},
            "the last message of .* has the role 'user'",
            "End each",
        ),
        (
            {"prompt": "a", "completion": "b", "tools": TOOLS},
            "has a column tools in addition to its prompt",
            "as chats",
        ),
        (
            {"question": "a", "answer": "b", "system": "Be brief."},
            "has a column system in addition to its prompt",
            "as chats",
        ),
        ({"prompt": [USER], "completion": "North."}, "is a list of messages", "both as text"),
        ({"prompt": "Where?", "completion": [ANSWER]}, "is a list of messages", "both as text"),
        ({"prompt": [USER], "completion": [ANSWER, USER, ANSWER]}, "is not a single message", "into the prompt"),
    ],
)
def test_broken_chats_are_refused_where_they_break(tmp_path, row, message, hint):
    with pytest.raises(DataError, match=message) as raised:
        load(tmp_path, row)
    assert hint in raised.value.hint
