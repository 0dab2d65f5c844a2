"""Tests of the words of a card."""

from __future__ import annotations

import re

from taskarith.cards.describe import NOT_MEASURED, describe

_BASE = {"name": "/home/ann/secret/base", "revision": None, "fingerprint": "ab" * 16}
_OPERAND = {"name": "/home/ann/`x`<img src=x>|.safetensors", "kind": "dense", "coefficient": -0.5, "base": _BASE}
_EDIT = {"kind": "edit", "base": _BASE, "alpha": 0.25, "method": {"name": "linear"}, "fingerprint": "cd" * 16}


def _outside_code(text):
    """Return what a reader of Markdown would not take for code."""
    text = re.sub(r"^(`{3,})text\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", text)


def test_an_edit_says_what_was_taken_away():
    text = describe({**_EDIT, "operands": [{**_OPERAND, "name": "v.safetensors"}]}, {}, "taskarith apply")
    assert "- subtracted, `0.5` times: `v.safetensors` (dense task vector, made from `base`)" in text
    assert "plus this sum times `0.25`, calculated in float64" in text
    assert NOT_MEASURED in text
    assert "can add it again" in text  # the vector that was subtracted
    assert "names no licence" in text


def test_an_addition_does_not_speak_of_forgetting_again():
    text = describe({**_EDIT, "operands": [{**_OPERAND, "coefficient": 1.0}]}, {"license": "mit"}, "pytest")
    assert "can add it again" not in text
    assert "`mit`" in text
    assert "a call from Python" in text


def test_methods_scales_and_what_is_protected_are_named():
    operands = [{**_OPERAND, "scale": {"mlp": 0.5}}, {**_OPERAND, "role": "protect"}]
    record = {**_EDIT, "method": {"name": "ties", "density": 0.5, "rank": None}, "scale": {"<b>": [0, 1]}}
    text = describe({**record, "operands": operands}, {}, "")
    assert "merged by the method `ties` (`density` `0.5`)" in text
    assert "`<b>` times `[0, 1]`" in text
    assert "in some tensors `mlp` times `0.5`" in text
    assert "to be protected from the change" in text


def test_names_of_strangers_are_code_and_no_paths():
    command = "taskarith apply '/home/ann/<img src=x>' --add '/home/ann/`x`'"
    text = describe({**_EDIT, "operands": [_OPERAND]}, {"license": "other", "license_name": "x"}, command)
    assert "/home" not in text
    assert "secret" not in text
    assert "<img" in text
    assert "<" not in _outside_code(text)


def test_a_fine_tune_names_its_data_and_settings():
    record = {"kind": "lora", "base": _BASE, "data": [{"spec": "/home/ann/a.txt", "fingerprint": "f", "tokens": 1234}]}
    record |= {"retain": [], "arguments": {"seed": 42, "objective": "npo"}, "versions": {"taskarith": "1.2"}}
    text = describe(record, {}, "taskarith finetune /home/ann/base --data /home/ann/a.txt")
    assert "- `a.txt` (1,234 tokens; fingerprint `f`)" in text
    assert "`seed` `42`" in text
    assert "to forget the data" in text
    assert "taskarith finetune base --data a.txt\n" in text
    assert "`1.2`" in text


def test_a_full_fine_tune_has_other_words():
    text = describe({"kind": "full", "base": {"name": "a/b", "revision": "c"}}, {}, "")
    assert "This is `a/b@c` after further training of all its weights." in text


def test_adapters_say_how_much_they_keep():
    text = describe({"kind": "lowrank", "base": _BASE, "finetuned": {"name": "/x/tuned"}, "energy": 0.155}, {}, "")
    assert "`tuned` and its base" in text
    assert "15.50%" in text
    record = {"kind": "combination", "base": _BASE, "energy": 1.0, "operands": [{**_OPERAND, "base": "/x/y"}]}
    text = describe(record, {}, "")
    assert "Its rank was limited" not in text
    assert "subtracted, `0.5` times" in text


def test_a_vector_file_says_how_it_is_used():
    record = {
        "kind": "vector",
        "form": "dense",
        "base": _BASE,
        "finetuned": {"name": "../tuned"},
        "at": "o/r:v.safetensors",
    }
    text = describe(record, {}, "")
    assert "The difference to `tuned`, stored as kind `dense`." in text
    assert "taskarith apply --negate o/r:v.safetensors -o edited" in text
    combined = {"combination": [{"name": "/x/a", "kind": "lora", "coefficient": 0.5}]}
    assert "- added, `0.5` times: `a` (LoRA adapter)" in describe({**record, "finetuned": combined}, {}, "")
