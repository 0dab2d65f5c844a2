"""Passages, and prompts made of them by rule or from a file."""

from __future__ import annotations

import json

import pytest
import tiny

from taskarith.attacks.prompts import file_prompts, growing, make_passages, plain, rephrased_by_rule
from taskarith.data.load import load_data
from taskarith.data.tokens import tokenize
from taskarith.errors import DataError


def passages_of(path, **changes):
    sizes = {"prompts": 5, "prompt_tokens": 8, "context_tokens": 12, "continuation_tokens": 6, "block_size": 32}
    data, sizes = load_data(str(path)), sizes | changes
    return make_passages(data, tokenize(data, tiny.tokenizer(), 32), tiny.tokenizer(), **sizes)


def test_passages_are_places_of_the_text(forget):
    ids = tiny.tokenizer()(forget.read_text()).input_ids
    for passage in passages_of(forget):
        start = int(passage.id.rpartition("@")[2])
        assert passage.context == tuple(ids[start - 4 : start + 8])
        assert passage.target == tuple(ids[start + 8 : start + 14])
        assert passage.samples == {f"forget.txt#{place // 32 + 1}" for place in range(start + 8, start + 14)}
        prompt = plain(passage, tiny.tokenizer())
        assert prompt.input_ids == tuple(ids[start : start + 8])
        assert prompt.reference == tiny.tokenizer().decode(ids[start + 8 : start + 14])
        assert growing(passage, 12, tiny.tokenizer()).input_ids == passage.context
        assert growing(passage, 3, tiny.tokenizer()).input_ids == passage.context[-3:]


def test_rephrasing_by_rule(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "The Old, grey  Keeper said:", "completion": " salt and bread"}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (passage,) = passages_of(path)
    assert passage.samples == {"rows.jsonl:1"}
    made = rephrased_by_rule([passage], tiny.tokenizer())
    assert {rule: prompts[0].text for rule, prompts in made.items()} == {
        "half": "grey  Keeper said:",
        "lower": "the old, grey  keeper said:",
        "bare": "The Old grey  Keeper said",
        "instructed": "Continue the text:\nThe Old, grey  Keeper said:",
    }
    assert {prompts[0].reference for prompts in made.values()} == {" salt and bread"}


def test_a_shifted_window_is_a_place_of_the_text_too(forget):
    ids = tiny.tokenizer()(forget.read_text()).input_ids
    passages = passages_of(forget)
    for passage, prompt in zip(passages, rephrased_by_rule(passages, tiny.tokenizer())["shifted"], strict=True):
        start = int(passage.id.rpartition("@")[2]) - 2  # a quarter of 8
        assert prompt.input_ids == tuple(ids[start : start + 8])
        assert prompt.reference == tiny.tokenizer().decode(ids[start + 8 : start + 14])


def test_rows_of_a_file_that_share_an_answer_are_one_group(tmp_path):
    path = tmp_path / "asked.jsonl"
    rows = [
        {"question": q, "answer": a} for q, a in (("who?", "a keeper"), ("which man?", "a keeper"), ("where?", "n"))
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = file_prompts(load_data(str(path)), tiny.tokenizer(), block_size=64, continuation_tokens=6)
    assert [group for group, _ in made] == [" a keeper", " a keeper", " n"]
    assert made[1][1].text == "Question: which man?\nAnswer:"
    bare = tmp_path / "x.txt"
    bare.write_text("words")
    with pytest.raises(DataError, match="does not contain prompts"):
        file_prompts(load_data(str(bare)), tiny.tokenizer(), block_size=64, continuation_tokens=6)
