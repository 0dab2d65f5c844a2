"""Columns tell what a row holds."""

from __future__ import annotations

import json

import pytest
from rows import ANSWER, CALL, CHAT, USER, load, write_lines

from taskarith.data.documents import Document
from taskarith.data.load import load_data


def test_a_named_column_may_hold_a_chat_as_json(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('talk,n\n"' + json.dumps(CHAT).replace('"', '""') + '",1\n', encoding="utf-8")
    assert load_data(f"{path}:talk").documents[0].messages == CHAT


def test_text_stays_text_where_both_are_there(tmp_path):
    data = load(tmp_path, {"text": "as written", "conversations": [{"from": "gpt", "value": "North."}]})
    assert data.documents[0].text == "as written"
    assert data.documents[0].messages is None


def test_keys_that_arrow_fills_with_nothing_are_dropped(tmp_path):
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset

    other = {"type": "function", "function": {"name": "wait", "arguments": {"hours": 2}}}
    rows = [
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, ANSWER]}
        for call in (CALL, other)
    ]
    expected = load(tmp_path, *rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    for name in ("rows.parquet", "saved"):
        data = load_data(str(tmp_path / name))
        assert [document.messages for document in data.documents] == [d.messages for d in expected.documents], name
        assert data.fingerprint == expected.fingerprint, name


@pytest.mark.parametrize(
    ("row", "document"),
    [
        ({"text": "a b"}, Document("rows.jsonl:1", "a b")),
        ({"prompt": "a", "completion": "b", "id": 7}, Document("rows.jsonl:1", "b", prompt="a")),
        ({"question": "Who?", "answer": "Me."}, Document("rows.jsonl:1", " Me.", prompt="Question: Who?\nAnswer:")),
        (
            {"messages": [{"role": "user", "content": "hi", "name": None}, {"role": "assistant", "content": "yo"}]},
            Document(
                "rows.jsonl:1",
                "yo",
                messages=({"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}),
            ),
        ),
    ],
    ids=["text", "completion", "question", "chat"],
)
def test_columns_tell_what_a_row_holds(tmp_path, row, document):
    assert load_data(str(write_lines(tmp_path / "rows.jsonl", [row]))).documents == (document,)
