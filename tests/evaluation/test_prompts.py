"""Prompts: where windows lie, what rows and chats give, and what is refused."""

from __future__ import annotations

import json

import pytest
import tiny

from taskarith.data.load import load_data
from taskarith.data.tokens import tokenize
from taskarith.errors import DataError
from taskarith.evaluation.prompts import make_prompts


def prompts_of(path, prompts=3, prompt_tokens=8, continuation_tokens=12, tokenizer=None):
    data, tokenizer = load_data(str(path)), tokenizer or tiny.tokenizer()
    samples = tokenize(data, tokenizer, 64)
    sizes = {"prompt_tokens": prompt_tokens, "continuation_tokens": continuation_tokens}
    return make_prompts(data, samples, tokenizer, prompts=prompts, **sizes)


def test_windows_spread_over_a_text_from_end_to_end(book):
    tokenizer = tiny.tokenizer()
    ids = tokenizer(book.read_text(encoding="utf-8")).input_ids
    made = prompts_of(book, prompts=5)
    last = len(ids) - 20
    starts = [0, last // 4, last // 2, 3 * last // 4, last]
    assert [prompt.id for prompt in made] == [f"book.txt@{start}" for start in starts]
    assert [prompt.input_ids for prompt in made] == [tuple(ids[start : start + 8]) for start in starts]
    assert [prompt.reference for prompt in made] == [tokenizer.decode(ids[s + 8 : s + 20]) for s in starts]


def test_windows_start_with_what_the_tokenizer_puts_before_texts(book):
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|end|>"})
    tokenizer.add_bos_token = True
    assert tokenizer("river").input_ids[0] == 0
    first = prompts_of(book, tokenizer=tokenizer)[0]
    assert len(first.input_ids) == 9
    assert first.input_ids[0] == 0


def test_there_are_never_more_prompts_than_windows(tmp_path):
    text = tmp_path / "short.txt"
    ids = tiny.tokenizer()(tiny.text(3)).input_ids[:22]
    text.write_text(tiny.tokenizer().decode(ids), encoding="utf-8")
    assert [prompt.id for prompt in prompts_of(text, prompts=16)] == ["short.txt@0", "short.txt@1", "short.txt@2"]
    assert len(prompts_of(text, prompts=1)) == 1
    assert prompts_of(text, prompts=0) == []
    with pytest.raises(DataError, match="at most 22 consecutive tokens, too few for a prompt of 8"):
        prompts_of(text, continuation_tokens=15)


def test_windows_of_rows_of_text_never_cross_a_row(tmp_path):
    rows = [tiny.text(3, seed) for seed in range(6)] + ["river"]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": row}) for row in rows), encoding="utf-8")
    made = prompts_of(path, prompts=9)
    assert len({prompt.id for prompt in made}) == 9
    for prompt in made:
        row = rows[int(prompt.id.split(":")[1].split("@")[0]) - 1]
        assert tiny.tokenizer().decode(list(prompt.input_ids)) + prompt.reference in row


def test_rows_with_prompts_give_them_and_their_completions(tmp_path):
    rows = [{"prompt": f"River {n}:", "completion": " salt" * (n + 1)} for n in range(8)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = prompts_of(path, prompts=4, continuation_tokens=5)
    assert [prompt.id for prompt in made] == ["rows.jsonl:1", "rows.jsonl:3", "rows.jsonl:5", "rows.jsonl:8"]
    assert [tiny.tokenizer().decode(list(prompt.input_ids)) for prompt in made[:2]] == ["River 0:", "River 2:"]
    assert [prompt.reference for prompt in made] == [" salt", " salt" * 3, " salt" * 5, " salt" * 5]


def test_chats_give_the_template_up_to_the_answer(tmp_path):
    chat = [{"role": "user", "content": "Which road?"}, {"role": "assistant", "content": "The north road"}]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": chat}), encoding="utf-8")
    (prompt,) = prompts_of(path)
    assert tiny.tokenizer().decode(list(prompt.input_ids)) == "<|user|>Which road?<|end|><|assistant|>"
    assert prompt.reference == "The north road"


def test_a_row_without_a_prompt_is_refused_for_continuations_only(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "", "completion": "river road"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:1 has an empty prompt"):
        prompts_of(path)
    assert prompts_of(path, prompts=0) == []
