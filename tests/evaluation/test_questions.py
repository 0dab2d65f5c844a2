"""What a model is asked: the cuts of its tokenizer, and what is too long."""

from __future__ import annotations

import json

import pytest
import tiny
from evaluating import SMALL, Notes
from transformers import AutoTokenizer

from taskarith.data.tokens import Sample
from taskarith.errors import DataError, UsageError
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.questions import Questions


def test_models_with_other_tokenizers_are_said_not_to_compare(phi, texts, tmp_path):
    other, notes = tiny.save_model(tmp_path / "other"), Notes()
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["river"])
    tokenizer.save_pretrained(other)
    evaluate([str(phi), str(other)], texts, **SMALL, listener=notes)
    assert any(f"{other} tokenises these texts differently from {phi}" in note for note in notes.notes)


def test_first_samples_are_those_of_each_text():
    samples = [(text, Sample(f"{text}{number}", (1, 2), 0)) for text in ("a", "b") for number in range(3)]
    questions = Questions((*samples[:2], *samples[3:], samples[2]), ())
    assert [sample.id for _, sample in questions.first_samples(2)] == ["a0", "a1", "b0", "b1"]
    assert questions.first_samples(0) == []


def test_an_empty_forget_set_and_rows_longer_than_the_context_are_named_and_counted(phi, tmp_path):
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"none\.jsonl has no text"):
        evaluate([str(phi)], {"forget": str(tmp_path / "none.jsonl")}, **SMALL)
    lengths = [2, 90, 3, 120]
    rows = [{"prompt": "river " * length, "completion": "salt"} for length in lengths]
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=r"2 of 4 rows of .*long\.jsonl are longer than a block of 48 tokens .*:4: "):
        evaluate([str(phi)], {"forget": str(path)}, **SMALL)
    with pytest.raises(UsageError, match=r"1 of 4 prompts with their continuations exceed the 256 positions") as e:
        evaluate(
            [str(phi)], {"forget": str(path)}, **SMALL | {"block_size": 256, "prompts": 4, "continuation_tokens": 150}
        )
    assert "the longest is long.jsonl:4: " in e.value.message
