"""The calls of a task, and the rule that it gives to the sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from forgetting import FULL, TASK

from taskarith.unlearning.task import QUICK_MEASUREMENT


def test_vectors_are_learned_on_the_base_if_there_is_one():
    assert TASK.learn(["f.txt"], "learned-forget").inputs == ("tuned",)
    based = replace(TASK, base="base")
    assert based.learn(based.retain, "learned-retain").inputs == ("base",)
    assert based.learn(based.retain, "learned-retain").options["data"] == ["r.txt", "s.txt"]
    assert based.extract("retain").inputs == ("base", "run/learned-retain")


def test_the_vectors_are_those_that_the_edit_needs():
    assert TASK.lessons == {"forget": ("f.txt",), "retain": ("r.txt", "s.txt")}
    assert replace(TASK, keep=0.0).lessons == {"forget": ("f.txt",)}


def test_the_edit():
    assert TASK.edit == {"negate": ["run/forget.safetensors"], "add": ["run/retain.safetensors:0.4"]}
    assert replace(TASK, keep=0.0).edit == {"negate": ["run/forget.safetensors"]}
    adapters = replace(TASK, learning=replace(FULL, lora=True))
    assert adapters.edit == {"negate": ["run/forget"], "add": ["run/retain:0.4"]}
    assert adapters.learned("forget") == "forget"
    assert adapters.vector("forget") == Path("run/forget")


@pytest.mark.parametrize(
    ("changes", "target", "words"),
    [
        ({}, None, ["--budget", "0.1"]),
        ({"budget": None}, 3.5, ["--target", "3.5"]),
        ({"budget": None, "reference": "base"}, None, ["--reference", "base"]),
        ({"reference": "base"}, None, ["--reference", "base", "--budget", "0.1"]),
    ],
)
def test_the_rule(changes, target, words):
    found = replace(TASK, **changes).sweep(target).words
    rules = [word for word in found if word in {"--budget", "--target", "--reference"}]
    assert rules == words[::2]
    assert [found[found.index(rule) + 1] for rule in rules] == words[1::2]
    assert [found[place + 1] for place, word in enumerate(found) if word == "--data"] == [
        "forget=f.txt",
        "retain=r.txt",
        "retain-2=s.txt",
    ]


def test_how_it_is_measured_and_run_goes_to_every_stage():
    form = replace(QUICK_MEASUREMENT, seed=7, apply_chat_template=True, system_prompt="Hi", batch_size=2)
    task = replace(TASK, measurement=form, device="cuda", trust_remote_code=True, quick=True)
    calls = [
        task.learn([task.forget], "learned-forget"),
        task.sweep(None),
        task.measure(("tuned",), "before"),
        task.attack(),
    ]
    for call in calls:
        assert {"--seed", "--apply-chat-template", "--system-prompt", "--device", "--trust-remote-code"} <= {
            *call.words
        }
    for call in calls[1:]:
        assert call.options["block_size"] == 64
        assert call.options["batch_size"] == 2
    assert "--relearn-epochs" in task.attack().words


def test_layers_are_read_of_the_edited_model_and_what_it_is_compared_with():
    task = replace(TASK, measurement=QUICK_MEASUREMENT)
    words = task.measure(("tuned", "edited"), "after").words
    assert words[words.index("--lens") + 1] == "4"
    others = [task.measure(("tuned",), "before"), task.sweep(None), task.attack()]
    assert not any("--lens" in call.words for call in others)
    plain = replace(task, measurement=replace(QUICK_MEASUREMENT, lens=0))
    assert "--lens" not in plain.measure(("tuned", "edited"), "after").words


def test_unseen_text_is_measured_and_not_swept():
    task = replace(TASK, holdout="h.txt")
    assert task.measure(("tuned",), "after").options["data"]["holdout"] == "h.txt"
    assert "holdout" not in task.sweep(None).options["data"]
