"""What an attack asks of a model, and what cannot be asked."""

from __future__ import annotations

import json

import pytest
import tiny
from attacking import SMALL
from transformers import AutoModelForCausalLM

import taskarith
from taskarith.errors import DataError, MismatchError, UsageError


def test_a_prompt_beyond_the_positions_is_refused(phi, tmp_path):
    long = tmp_path / "long.txt"
    long.write_text(tiny.text(60), encoding="utf-8")
    with pytest.raises(UsageError, match=r"has 257 tokens; .* has 256 positions"):
        taskarith.attack(str(phi), str(long), **SMALL | {"prefixes": (4, 251)})


def test_another_tokenizer_is_refused(phi, phi_tuned, forget, tmp_path):
    other = tmp_path / "other"
    AutoModelForCausalLM.from_pretrained(phi_tuned).save_pretrained(other)
    changed = tiny.tokenizer()
    changed.add_tokens(["keeper", "river"])
    changed.save_pretrained(other)
    with pytest.raises(MismatchError, match="tokenises these texts differently"):
        taskarith.attack(str(phi), str(forget), before=str(other), **SMALL)


def test_chats_are_not_rephrased_by_rule(phi, tmp_path):
    chat = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "the keeper of the salt"}]
    (tmp_path / "chats.jsonl").write_text("\n".join([json.dumps({"messages": chat})] * 3), encoding="utf-8")
    with pytest.raises(DataError, match="contains chats, whose templates the rules"):
        taskarith.attack(str(phi), str(tmp_path / "chats.jsonl"), attacks=["rephrase"], block_size=64)
