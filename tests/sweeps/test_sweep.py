"""A whole sweep against `eval` and `apply`, and inputs that it refuses."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file
from sweeping import OPTIONS, SMALL, command
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.errors import UsageError
from taskarith.evaluation.evaluate import evaluate
from taskarith.sweeps.sweep import sweep


def test_the_command_measures_as_eval_does_and_apply_writes_what_it_chose(lab, tmp_path):
    done = command(
        lab,
        "--negate",
        lab["forget"],
        "--alpha",
        "0.5,3,1.5",
        "--reference",
        lab["base"],
        *OPTIONS,
        "-o",
        tmp_path / "s",
    )
    assert done.exit_code == 0, done.output
    assert "chosen: the smallest alpha that reaches the level of" in done.stderr
    assert sorted(one.name for one in (tmp_path / "s").iterdir()) == [
        "curve.png",
        "curve.svg",
        "recipe.yaml",
        "records.jsonl",
        "report.html",
        "results.json",
        "taskarith.json",
    ]
    found = json.loads((tmp_path / "s" / "results.json").read_text())
    options = SMALL | {"reference": lab["base"]}
    same = evaluate([lab["tuned"]], lab["data"], negate=[lab["forget"]], alphas=[0, 0.5, 1.5, 3], **options)
    assert found["scores"] == same.scores.to_json()["scores"]
    records = [json.loads(line) for line in (tmp_path / "s" / "records.jsonl").read_text().splitlines()]
    assert records == same.records
    assert [row["alpha"] for row in found["rows"]] == [0, 0.5, 1.5, 3]
    alpha = found["recommended"]["alpha"]
    levels = [scores["forget"]["loss"]["value"] for scores in found["scores"].values()]
    assert alpha > 0
    assert levels[-1] > levels[0]  # the base never knew the text
    recipe = yaml.safe_load((tmp_path / "s" / "recipe.yaml").read_text())
    assert recipe["alpha"] == alpha
    assert recipe == found["recipe"]
    applied = CliRunner().invoke(
        app, ["apply", "--config", str(tmp_path / "s" / "recipe.yaml"), "-o", str(tmp_path / "out"), "--quiet"]
    )
    assert applied.exit_code == 0, applied.output
    model = AutoModelForCausalLM.from_pretrained(lab["tuned"])
    memory = InMemoryEdit(model, lab["tuned"], negate=[lab["forget"]])
    memory.set(alpha)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(values, model.state_dict()[name]) for name, values in written.items())


def test_texts_of_one_side_and_a_vector_of_another_model_are_refused(lab, tmp_path):
    for names in (["forget"], ["retain"]):
        texts = {name: lab["data"][name] for name in names}
        with pytest.raises(UsageError, match="there is no"):
            sweep(lab["tuned"], texts, negate=[lab["forget"]])
    other = tiny.save_model(tmp_path / "other", "gpt2")
    done = command(lab, "--negate", f"{other}@@{lab['base']}", *OPTIONS, "-o", tmp_path / "s")
    assert done.exit_code == 1
    assert not (tmp_path / "s").exists()
