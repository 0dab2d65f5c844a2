"""The list of decoder layers is found in every architecture, or not guessed."""

from __future__ import annotations

import pytest
import tiny
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from taskarith.models.layers import layer_list


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("phi", "model.layers"),
        ("gpt2", "transformer.h"),
        ("gpt_neox", "gpt_neox.layers"),
        ("qwen3_moe", "model.layers"),
        ("mamba", "backbone.layers"),
        ("gemma3", "model.language_model.layers"),
    ],
)
def test_the_list_is_the_decoders(kind, name):
    auto = AutoModelForImageTextToText if kind in tiny.WITH_PICTURES else AutoModelForCausalLM
    assert layer_list(auto.from_config(tiny.configuration(kind))) == name


def test_a_second_list_of_that_length_is_not_guessed_about():
    model = AutoModelForCausalLM.from_config(tiny.configuration("phi"))
    model.model.others = type(model.model.layers)(list(model.model.layers))
    assert layer_list(model) is None
