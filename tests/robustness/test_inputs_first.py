"""What is wrong with an input is said before any model is loaded, whichever of the inputs it is."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import tiny
from transformers import AutoTokenizer
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.vectors.extract import extract


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    base = tiny.save_model(place / "base")
    for seed, name in enumerate(("tuned", "never", "cut"), start=1):
        tiny.save_model(place / name, nudge_of=base, seed=seed)
    with (place / "cut" / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    tiny.save_model(place / "gpt2", "gpt2")
    extract(str(base), str(place / "tuned"), place / "v.safetensors")
    extract(str(place / "gpt2"), str(place / "gpt2"), place / "other.safetensors")
    shutil.copytree(base, place / "otherwise")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["ver", "ter", "ne", "op"])
    tokenizer.save_pretrained(place / "otherwise")
    (place / "adapter").mkdir()
    (place / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "gone"}))
    (place / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    for name, words in (("forget", tiny.text(20)), ("retain", tiny.text(20, 1)), ("short", "a"), ("empty", "")):
        (place / f"{name}.txt").write_text(words, encoding="utf-8")
    (place / "empty.jsonl").write_text("")
    (place / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "", "completion": "c"}\n')
    (place / "no-columns.jsonl").write_text('{"x": 1}\n')
    (place / "mine.txt").write_text("not a study")
    (place / "folder").mkdir()
    return place


EVAL = ["eval", "base", "--data", "forget=forget.txt"]
SWEEP = ["sweep", "tuned", "--negate", "v.safetensors", "--data", "forget=forget.txt", "--data", "retain=retain.txt"]
SEARCH = [*SWEEP, "--budget", "1", "--search", "2"]
ATTACK = ["attack", "tuned", "--forget", "forget.txt", "--block-size", "16", "--prefixes", "4", "--prompt-tokens", "4"]
RELATE = ["relate", "v.safetensors", "v.safetensors", "--data", "a=forget.txt"]
IMPORTANCE = ["importance", "tuned", "-o", "OUT", "--forget", "forget.txt"]
OOD = ["ood", "v.safetensors", "--data", "target=forget.txt"]

LATE = [
    ([*EVAL[:2], "tuned", "never", "otherwise", "gone", *EVAL[2:]], "there is no model folder gone"),
    ([*EVAL[:2], "tuned", "cut", *EVAL[2:]], "cut"),
    ([*EVAL[:2], "adapter", *EVAL[2:]], "gone"),
    ([*EVAL, "--reference", "gone"], "there is no model folder gone"),
    ([*EVAL, "--data", "holdout=empty.jsonl"], "empty.jsonl"),
    ([*EVAL, "--data", "holdout=no-columns.jsonl"], "no-columns.jsonl"),
    ([*EVAL, "--data", "holdout=short.txt"], "short.txt is too short"),
    ([*EVAL, "--data", "holdout=gone.txt"], "gone.txt"),
    ([*EVAL, "--data", "rows=rows.jsonl"], "rows.jsonl"),
    ([*EVAL, "--benchmark", "tofu=folder"], "folder does not contain"),
    ([*EVAL, "--benchmark", "muse-boks"], "muse-boks"),
    ([*EVAL, "--tasks", "no_such_task", "--task-folder", "gone"], "there is no task folder gone"),
    ([*EVAL, "--add", "gone.safetensors"], "there is no vector gone.safetensors"),
    ([*EVAL, "--add", "other.safetensors"], "other.safetensors"),
    (["eval", "tuned", "gpt2", "--data", "forget=forget.txt", "--block-size", "257"], "positions"),
    ([*EVAL, "-o", "forget.txt/out"], "forget.txt"),
    ([*SWEEP, "--reference", "gone"], "there is no model folder gone"),
    ([*SWEEP, "--reference", "otherwise", "--block-size", "16"], "cut these texts into different samples"),
    ([*SWEEP, "--add", "other.safetensors"], "other.safetensors"),
    ([*SWEEP, "--data", "more=empty.txt"], "empty.txt"),
    ([*SWEEP, "--protect", "gone.safetensors"], "gone.safetensors"),
    ([*SEARCH, "--storage", "mine.txt"], "the file was not written by Optuna"),
    ([*SEARCH, "--storage", "sqlite:////proc/none/x.db"], "cannot store trials in"),
    ([*SEARCH, "--by", "depth"], "unknown parts 'depth'"),
    ([*ATTACK, "--before", "gone"], "there is no model folder gone"),
    ([*ATTACK, "--reference", "otherwise"], "otherwise tokenises these texts differently from tuned"),
    ([*ATTACK, "--reference", "cut"], "cut"),
    ([*ATTACK, "--unrelated", "short.txt"], "short.txt is too short"),
    ([*ATTACK, "--rephrased", "retain.txt"], "retain.txt does not contain prompts"),
    ([*ATTACK, "--relearn-samples", "1000"], "too few to give 1000"),
    ([*ATTACK, "--prefixes", "250"], "250"),
    ([*ATTACK, "-o", "forget.txt/out"], "forget.txt"),
    ([*RELATE, "--data", "b=gone.txt"], "gone.txt"),
    ([*RELATE, "--data", "b=short.txt"], "short.txt"),
    ([*RELATE, "--data", "b=retain.txt", "--rank", "0"], "--rank 0 is out of range"),
    ([*RELATE, "--data", "b=retain.txt", "--plot", "x.bmp"], "cannot write a plot to x.bmp"),
    ([*RELATE, "--data", "b=retain.txt", "--dtype", "int3"], "unknown dtype 'int3'"),
    (["relate", "v.safetensors", "other.safetensors", "--model", "base"], "other"),
    ([*IMPORTANCE, "--retain", "gone.txt"], "gone.txt"),
    ([*IMPORTANCE, "--retain", "short.txt"], "short.txt is too short"),
    ([*IMPORTANCE[:3], "folder", *IMPORTANCE[4:], "--retain", "retain.txt"], "folder is a folder"),
    (["importance", "adapter", *IMPORTANCE[2:], "--retain", "retain.txt"], "gone"),
    ([*OOD, "--data", "own=gone.txt"], "gone.txt"),
    ([*OOD, "--data", "own=short.txt"], "short.txt"),
    ([*OOD, "--block-size", "999"], "999"),
]  # fmt: skip


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """Run a command that must load nothing, in a folder that it must leave as it is."""

    def fail(*arguments, **options):
        raise AssertionError("work began")

    for name in ("evaluation.models.load_model", "relations.relate.relate_weights"):
        monkeypatch.setattr(f"taskarith.{name}", fail)
    monkeypatch.chdir(made)

    def do(words):
        before = sorted(path.name for path in made.iterdir())
        done = CliRunner().invoke(app, [word.replace("OUT", str(tmp_path / "out")) for word in words])
        assert sorted(path.name for path in made.iterdir()) == before
        assert list(tmp_path.iterdir()) == []
        return done

    return do


@pytest.mark.parametrize(
    ("words", "message"), LATE, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_is_wrong_is_said_before_work_begins(run, words, message):
    done = run(words)
    assert done.exit_code in {1, 2}, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert message in done.stderr


@pytest.mark.parametrize(
    ("words", "package"), [([*EVAL, "--tasks", "piqa"], "lm_eval.tasks"), (SEARCH, "optuna")], ids=["lm-eval", "optuna"]
)
def test_an_extra_that_is_not_installed_is_missed_at_once(run, monkeypatch, words, package):
    monkeypatch.setitem(sys.modules, package, None)
    done = run(words)
    assert done.exit_code == 2
    assert "which is not installed" in done.stderr
