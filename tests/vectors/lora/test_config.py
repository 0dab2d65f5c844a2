"""The door of ``adapter_config.json``."""

from __future__ import annotations

import json

import pytest

from taskarith.errors import CheckpointError, VectorError
from taskarith.vectors.lora.config import read_adapter_config

SOUND = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8.5,
    "target_modules": "all-linear",
    "rank_pattern": {"a": 2},
    "revision": None,
    "unknown": [1],
}


def write(folder, config):
    (folder / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def test_values_are_taken_as_they_are(tmp_path):
    assert read_adapter_config(write(tmp_path, SOUND)) == SOUND


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 4.5),
        ("r", True),
        ("r", -1),
        ("lora_alpha", "8"),
        ("peft_type", 1),
        ("target_modules", [1]),
        ("target_parameters", "a"),
        ("rank_pattern", {"a": "b"}),
        ("trainable_token_indices", 3),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path, key, value):
    with pytest.raises(VectorError, match=f"adapter_config.json: '{key}' cannot be"):
        read_adapter_config(write(tmp_path, SOUND | {key: value}))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_what_is_not_an_object_is_refused(tmp_path, text):
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        read_adapter_config(write(tmp_path, text))
