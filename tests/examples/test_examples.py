"""The example scripts as a user runs them, with a tiny Phi in place of real models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import layouts
import oracle
import pytest
import tiny
import torch
from peft import PeftModel
from preloaded import preloaded_command
from transformers import AutoModelForCausalLM, AutoTokenizer

import taskarith

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """The installed command, which need not import torch again."""
    with preloaded_command(tmp_path_factory.mktemp("command"), os.environ) as folder:
        yield folder


@pytest.fixture
def run(commands):
    return partial(run_script, commands)


def run_script(commands, *arguments, cwd, name="forget_a_book"):
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [str(argument) for argument in (EXAMPLES / name / f"{name}.sh", *arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
    )


FAST = "--learning-rate 3e-3 --num-train-epochs 20 --keep 0 --alpha 1,2,3 --quick --compromise --block-size 32 "
FAST += "--prompts 8 --prompt-tokens 16 --continuation-tokens 8"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(tiny.save_model(tmp_path_factory.mktemp("base") / "phi"))


def taught(base, data, output, **options):
    """Return a model that learned texts or answers by heart."""
    how = {
        "learning_rate": 1e-2,
        "num_train_epochs": 40,
        "per_device_train_batch_size": 4,
        "block_size": 32,
        "bf16": False,
    }
    taskarith.finetune(base, [str(one) for one in data], output, **how | options)
    return str(output)


def losses_of(folder, text):
    scores = json.loads((folder / "results.json").read_text())["scores"]
    return {name.rpartition("/")[2]: values[text]["loss"]["value"] for name, values in scores.items()}


def test_a_book_is_forgotten_and_the_same_call_goes_on(run, tmp_path, base):
    for name, seed in (("forget", 1), ("retain", 2)):
        (tmp_path / f"{name}.txt").write_text(tiny.text(24, seed), encoding="utf-8")
    texts = ("--forget", "forget.txt", "--retain", "retain.txt")
    taught(base, [tmp_path / "forget.txt", tmp_path / "retain.txt"], tmp_path / "out/knows")  # as the script would
    words = (*texts, "--base", base, "--output", "out", "--", *FAST.split())
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    losses = losses_of(tmp_path / "out/unlearned/after", "forget")
    assert losses["edited"] > losses["knows"] + 0.5
    assert (tmp_path / "out/unlearned/report.html").is_file()
    begun = (tmp_path / "out/unlearned/edited/taskarith.json").stat().st_mtime_ns
    assert run(*words, cwd=tmp_path).returncode == 0
    assert (tmp_path / "out/unlearned/edited/taskarith.json").stat().st_mtime_ns == begun


def test_the_base_learns_the_book_first(run, tmp_path, base):
    for name, seed in (("forget", 1), ("retain", 2)):
        (tmp_path / f"{name}.txt").write_text(tiny.text(24, seed), encoding="utf-8")
    texts = ("--forget", "forget.txt", "--retain", "retain.txt")
    done = run(*texts, "--base", base, "--output", "out", "--", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/knows/taskarith.json").is_file()
    assert "taskarith apply out/knows" in done.stdout + done.stderr
    assert not (tmp_path / "out/unlearned").exists()


def test_authors_of_tofu_are_forgotten(run, tmp_path, base):
    layouts.write_tofu(tmp_path / "TOFU", count=8, splits=True)
    forget, retain = (tmp_path / "TOFU" / f"{name}.json" for name in ("forget10", "retain90"))
    model = taught(base, [forget, retain], tmp_path / "full")
    reference = taught(base, [retain], tmp_path / "retained")
    words = ("--model", model, "--reference", reference, "--data", "TOFU", "--limit", "4", "--output", "out")
    done = run(*words, "--", "--base", base, *FAST.split(), cwd=tmp_path, name="tofu")
    assert done.returncode == 0, done.stderr
    assert "model utility" in done.stdout
    losses = losses_of(tmp_path / "out/unlearned/after", "forget")
    assert losses["edited"] > losses["full"] + 0.5
    models = json.loads((tmp_path / "out/scores/results.json").read_text())["scores"]
    assert {name.rpartition("/")[2] for name in models} == {"full", "edited", "retained"}


def test_texts_of_muse_are_forgotten(run, tmp_path, base):
    layouts.write_muse(tmp_path / "MUSE", count=4)
    for name, seed in (("forget", 1), ("retain", 2)):
        (tmp_path / f"{name}.txt").write_text(tiny.text(24, seed), encoding="utf-8")
    model = taught(base, [tmp_path / "forget.txt", tmp_path / "retain.txt"], tmp_path / "target")
    reference = taught(base, [tmp_path / "retain.txt"], tmp_path / "retrain")
    texts = ("--forget", "forget.txt", "--retain", "retain.txt", "--data", "MUSE", "--limit", "2")
    words = ("--model", model, "--reference", reference, *texts, "--output", "out")
    done = run(*words, "--", "--base", base, *FAST.split(), cwd=tmp_path, name="muse")
    assert done.returncode == 0, done.stderr
    assert "PrivLeak" in done.stdout
    losses = losses_of(tmp_path / "out/unlearned/after", "forget")
    assert losses["edited"] > losses["target"] + 0.5


def test_a_model_gets_the_difference_and_the_template_of_a_chat_model(run, tmp_path, phi, phi_tuned):
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


def test_adapters_with_signs_are_one_adapter_and_one_model(run, tmp_path, phi):
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


@pytest.mark.parametrize("name", ["forget_a_book", "chat_vector", "merge_loras", "tofu", "muse"])
def test_all_scripts_say_how_they_are_called(run, tmp_path, name):
    for words in ((), ("--model",), ("--wrong", "x"), ("--add", "x", "--model", "y")):
        done = run(*words, cwd=tmp_path, name=name)
        assert done.returncode == 2
        assert f"Usage: {name}.sh" in done.stderr
    assert list(tmp_path.iterdir()) == []
