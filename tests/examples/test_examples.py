"""The example scripts as a user runs them, with a tiny Phi in place of real models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import oracle
import pytest
import tiny
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*arguments, cwd, name="forget_a_book"):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [str(argument) for argument in (EXAMPLES / name / f"{name}.sh", *arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
    )


@pytest.mark.parametrize("extra", [[], ["--lora"]], ids=["full", "lora"])
def test_a_book_is_forgotten(tmp_path, phi, extra):
    for name, seed in (("forget", 1), ("retain", 2)):
        (tmp_path / f"{name}.txt").write_text(tiny.text(60, seed), encoding="utf-8")
    training = ["--learning-rate", "1e-2", "--max-steps", "8", "--per-device-train-batch-size", "2", *extra]
    options = ["--forget", "forget.txt", "--retain", "retain.txt", "--model", phi, "--alpha", "0.75", "--output", "out"]
    done = run(*options, "--", "--block-size", "64", *training, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "out/scores/results.json").read_text())["scores"]
    base, edited = scores[str(phi)], scores["out/edited"]
    forgotten = edited["forget"]["loss"]["value"]
    assert forgotten > base["forget"]["loss"]["value"] + 0.03
    alphas = json.loads((tmp_path / "out/alphas/results.json").read_text())["scores"]
    assert len(alphas) == 5
    assert alphas[f"{phi} alpha=0.75"]["forget"]["loss"]["value"] == pytest.approx(forgotten, rel=1e-6)


def test_a_wrong_call_says_how_to_call(tmp_path):
    done = run("--forget", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage: forget_a_book.sh" in done.stderr
    (tmp_path / "out").mkdir()
    done = run("--forget", "x", "--retain", "y", "--output", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "out exists" in done.stderr


def test_a_model_gets_the_difference_and_the_template_of_a_chat_model(tmp_path, phi, phi_tuned):
    chat = tiny.save_model(tmp_path / "chat", nudge_of=phi, seed=5)
    template = "{% for one in messages %}<{{ one.role }}>{{ one.content }}{% endfor %}"
    (chat / "chat_template.jinja").write_text(template)
    words = ("--model", phi_tuned, "--chat", chat, "--base", phi, "--alpha", "0.5", "--output", "chatting")
    done = run(*words, cwd=tmp_path, name="chat_vector")
    assert done.returncode == 0, done.stderr
    model, difference, base = (oracle.load(folder) for folder in (phi_tuned, chat, phi))
    for key, weight in oracle.load(tmp_path / "chatting").items():
        exact = model[key].double() + 0.5 * (difference[key].double() - base[key].double())
        assert torch.equal(weight, exact.to(weight.dtype)), key
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "chatting")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "bread"}], tokenize=False) == "<user>bread"


def test_adapters_with_signs_are_one_adapter_and_one_model(tmp_path, phi):
    for seed, name in enumerate(("law", "medicine", "gossip")):
        (tmp_path / f"{name}.txt").write_text(tiny.text(60, seed), encoding="utf-8")
    words = ("--add", "law.txt", "--add", "medicine.txt", "--negate", "gossip.txt", "--model", phi, "--output", "out")
    training = ("--block-size", "64", "--learning-rate", "1e-2", "--max-steps", "8", "--lora-rank", "4")
    done = run(*words, "--", *training, cwd=tmp_path, name="merge_loras")
    assert done.returncode == 0, done.stderr
    model = AutoModelForCausalLM.from_pretrained(phi)
    tokens = torch.arange(40).reshape(2, 20)
    plain = model(tokens).logits
    adapted = PeftModel.from_pretrained(model, tmp_path / "out/merged")(tokens).logits
    edited = AutoModelForCausalLM.from_pretrained(tmp_path / "out/edited")(tokens).logits
    assert torch.allclose(adapted, edited, atol=1e-5)
    assert not torch.allclose(adapted, plain, atol=1e-3)
    scores = json.loads((tmp_path / "out/scores/results.json").read_text())["scores"]
    before, after = (scores[name] for name in (str(phi), "out/edited"))
    rises = [after[text]["loss"]["value"] - before[text]["loss"]["value"] for text in ("first", "second", "forget")]
    assert rises[2] > max(rises[:2])


@pytest.mark.parametrize("name", ["chat_vector", "merge_loras"])
def test_other_scripts_say_how_they_are_called(tmp_path, name):
    for words in ((), ("--model",), ("--wrong", "x"), ("--add", "x", "--model", "y")):
        done = run(*words, cwd=tmp_path, name=name)
        assert done.returncode == 2
        assert f"Usage: {name}.sh" in done.stderr
    assert list(tmp_path.iterdir()) == []
