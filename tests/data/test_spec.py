"""Data as users name it."""

from __future__ import annotations

import pytest

from taskarith.data.spec import DataRef, parse_data, parse_named_data
from taskarith.errors import UsageError


def test_parse_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").touch()
    assert parse_data("rows.jsonl") == DataRef("rows.jsonl")
    assert parse_data("rows.jsonl:story") == DataRef("rows.jsonl", column="story")
    assert parse_data("locuslab/TOFU:forget10") == DataRef("locuslab/TOFU", "forget10")
    assert parse_data("a/b::train:text") == DataRef("a/b", None, "train", "text")
    assert str(parse_data("a/b::train:text")) == "a/b::train:text"
    for text in ["rows.jsonl:a:b", "a:b:c:d:e", ":x"]:
        with pytest.raises(UsageError):
            parse_data(text)


def test_parse_named_data():
    assert parse_named_data(["forget=a.txt", "books/retain.txt"]) == {"forget": "a.txt", "retain": "books/retain.txt"}
    for texts in (["a=x", "a=y"], ["=x"], ["a="]):
        with pytest.raises(UsageError):
            parse_named_data(texts)


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_name_is_not_the_current_folder(text):
    with pytest.raises(UsageError, match="is empty"):
        parse_data(text)
