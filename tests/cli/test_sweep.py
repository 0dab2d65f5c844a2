"""`taskarith sweep` as a user types it."""

from __future__ import annotations

import json

import pytest
import yaml
from sweeping import OPTIONS, SMALL, command
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.evaluation.evaluate import evaluate


def test_nothing_is_recommended_without_an_aim_or_out_of_reach(lab, tmp_path):
    done = command(lab, "--negate", lab["forget"], "--alpha", "0.1", "--json", *OPTIONS, "-o", tmp_path / "s")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["recommended"], found["rule"], found["recipe"]) == (None, None, None)
    assert "give --reference MODEL" in done.stderr
    assert done.stderr.index("no alpha will be recommended") < done.stderr.index(" tokens in ")  # before the work
    assert not (tmp_path / "s" / "recipe.yaml").exists()
    done = command(lab, "--negate", lab["forget"], "--alpha", "0.1", "--target", "50", "--json", *OPTIONS)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["recommended"] is None
    assert "no edit reaches the target" in done.stderr


def test_a_budget_and_a_method_that_looks_at_another_vector(lab, tmp_path):
    project = ["--method", "project", "--protect", lab["retain"]]
    done = command(
        lab, "--negate", lab["forget"], "--alpha", "0.5,1", "--budget", "9", *project, *OPTIONS, "-o", tmp_path / "s"
    )
    assert done.exit_code == 0, done.output
    assert f"next: taskarith apply --config {tmp_path / 's' / 'recipe.yaml'}\n" in done.stderr
    recipe = yaml.safe_load((tmp_path / "s" / "recipe.yaml").read_text())
    assert (recipe["method"], recipe["protect"], recipe["alpha"]) == ({"name": "project"}, [lab["retain"]], 1.0)
    done = CliRunner().invoke(
        app, ["apply", "--config", str(tmp_path / "s" / "recipe.yaml"), "--dry-run", "-o", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "no vector is given"),
        (["--negate", "gone.safetensors"], 1, "there is no vector gone.safetensors"),
        (["--negate", "{forget}", "--alpha", "nan"], 2, "cannot read alpha 'nan'"),
        (["--negate", "{forget}", "--alpha", "1,1"], 2, "cannot sweep alphas"),
        (["--negate", "{forget}", "--target", "nan"], 2, "--target nan is not finite"),
        (["--negate", "{forget}", "--budget", "inf"], 2, "--budget inf is not finite"),
        (["--negate", "{forget}", "--budget", "1", "--target", "1"], 2, "two different rules"),
        (["--negate", "{forget}", "--reference", "{base}", "--target", "1"], 2, "two different levels"),
        (["--negate", "{forget}", "--reference", "{tuned}"], 2, "the reference is the model itself"),
        (["--negate", "{forget}", "--search", "3"], 2, "a search needs a rule"),
        (["--negate", "{forget}", "--search", "-3", "--target", "1"], 2, "cannot be combined or negative"),
        (
            ["--negate", "{forget}", "--search", "3", "--gradient", "3", "--target", "1"],
            2,
            "cannot be combined or negative",
        ),
        (["--negate", "{forget}", "--search", "3", "--target", "1", "--alpha", "1"], 2, "two bounds"),
        (["--negate", "{forget}", "--by", "layer"], 2, "need a search"),
        (["--negate", "{forget}", "--gradient", "3", "--target", "1", "--by", "head"], 2, "unknown parts 'head'"),
        (["--negate", "{forget}", "--gradient", "3", "--target", "1", "--kl", "-1"], 2, "--kl -1.0 is out of range"),
        (["--negate", "{forget}", "--scale", "nowhere=1"], 2, "'nowhere' names no tensor"),
        (["--negate", "{forget}", "--method", "sorcery"], 2, "unknown method 'sorcery'"),
        (["--negate", "{forget}", "--method", "project"], 2, "method project needs --protect"),
        (["--negate", "{forget}", "--weights", "w"], 1, "there is no file w"),
    ],
)
def test_mistakes_are_two_lines_and_an_exit_code(lab, tmp_path, arguments, code, words):
    done = command(lab, *(one.format(**lab) for one in arguments), "--prompts", "0", "-o", tmp_path / "s")
    assert done.exit_code == code, done.output
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_a_search_finds_is_what_apply_writes(lab, tmp_path):
    pytest.importorskip("optuna")
    options = ["--by", "layer", "--by", "module", "--search", "7", "--target", "3", *OPTIONS]
    done = command(lab, "--negate", lab["forget"], *options, "-o", tmp_path / "s", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["trials"]) == 7
    assert len(found["rows"]) == 4
    scale = found["recipe"]["operands"][0]["scale"]
    assert list(scale) == ["*"] + [f"model.layers.{n}-{n}.{kind}" for n in (0, 1) for kind in ("mlp", "self_attn")]
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["apply", "--config", str(tmp_path / "s" / "recipe.yaml"), "-o", str(out), "--quiet"]
    )
    assert done.exit_code == 0, done.output
    name = found["recommended"]["name"]
    assert (
        evaluate([str(out)], lab["data"], **SMALL).scores.to_json()["scores"][str(out)]["forget"]["loss"]
        == (found["scores"][name]["forget"]["loss"])
    )
