"""The command that a call is printed as."""

from __future__ import annotations

import shlex
from pathlib import Path

from taskarith.unlearning.call import Call


def test_a_call_is_the_command_that_does_it():
    options = {
        "data": {"forget": "a b.txt", "retain": "c.txt"},
        "negate": ["v.safetensors"],
        "alphas": (0.0, 0.5, 1.25),
        "lora": True,
        "overwrite": False,
        "device": None,
        "system_prompt": "",
        "learning_rate": 3e-4,
        "block_size": 64,
    }
    call = Call("sweep", ("my model",), Path("out/sweep"), options)
    words = "taskarith sweep 'my model' --data 'forget=a b.txt' --data retain=c.txt --negate v.safetensors "
    words += "--alpha 0,0.5,1.25 --lora --learning-rate 0.0003 --block-size 64 -o out/sweep"
    assert str(call) == words
    assert shlex.split(str(call))[1:-2] == call.words
    assert call.name == "sweep"
    assert call.texts == {"my model", "a b.txt", "c.txt", "v.safetensors", ""}


def test_numbers_keep_all_their_digits():
    call = Call("apply", (), Path("o"), {"alpha": 0.1 + 0.2, "alphas": (1 / 3, 1.0)})
    words = call.words
    assert float(words[2]) == 0.1 + 0.2
    assert [float(word) for word in words[4].split(",")] == [1 / 3, 1.0]
