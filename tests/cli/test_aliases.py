"""Other names of options: on the command line and in configuration files."""

from __future__ import annotations

import json

import pytest
import tiny
from typer.testing import CliRunner

from taskarith.cli.main import app


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (["--lr", "1e-3", "--epochs=1", "--batch-size", "2"], {"learning_rate": 1e-3, "num_train_epochs": 1.0}),
        (["--learning-rate", "1e-3", "--num-epochs", "1"], {"learning_rate": 1e-3, "num_train_epochs": 1.0}),
    ],
)
def test_finetune_takes_short_names(phi, tmp_path, args, options):
    (tmp_path / "forget.txt").write_text(tiny.text(40), encoding="utf-8")
    done = run(
        "finetune", phi, "--data", tmp_path / "forget.txt", "--out", tmp_path / "o", *args, "--block-size", 16, "--json"
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "o/taskarith.json").read_text(encoding="utf-8"))["arguments"]
    assert {key: found[key] for key in options} == options


def test_an_alias_in_a_configuration_file_and_both_names_of_the_output(phi, phi_tuned, tmp_path):
    done = run("extract", phi, phi_tuned, "--output-dir", tmp_path / "v.safetensors", "--dtype", "BF16", "-q")
    assert done.exit_code == 0, done.output
    (tmp_path / "config.yaml").write_text(f"output: {tmp_path / 'edited'}\ndtype: fp16\n", encoding="utf-8")
    edit = ["--subtract", tmp_path / "v.safetensors", "--merge-method", "TASK-Arithmetic"]
    done = run("apply", *edit, "--config", tmp_path / "config.yaml")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "edited/taskarith.json").read_text(encoding="utf-8"))
    assert (record["dtype"], record["method"]["name"]) == ("F16", "linear")


def test_a_configuration_file_names_an_option_once(tmp_path):
    (tmp_path / "twice.yaml").write_text("lr: 1\nlearning-rate: 2\n", encoding="utf-8")
    done = run("finetune", "m", "--data", "x", "-o", "o", "--config", tmp_path / "twice.yaml")
    assert done.exit_code == 2
    assert "has an option under several names: learning-rate, lr" in " ".join(done.stderr.split())


def test_an_earlier_name_goes_on_working_with_a_note(phi, phi_tuned, tmp_path):
    (tmp_path / "forget.txt").write_text(tiny.text(60), encoding="utf-8")
    evaluate = ["eval", phi_tuned, "--data", f"forget={tmp_path / 'forget.txt'}", "--prompts", 0, "--block-size", 16]
    old, new = run(*evaluate, "--retain", phi), run(*evaluate, "--reference", phi)
    assert old.exit_code == new.exit_code == 0
    assert old.stdout == new.stdout
    assert "note: --retain is called --reference now" in old.stderr
    assert "--retain" not in new.stderr


def test_an_own_option_is_never_an_alias():
    for command in ("importance", "finetune"):
        assert "--retain" in run(command, "--help").stdout
        assert "is called" not in run(command, "--retain", "x").stderr
    assert "--batch-size" in run("eval", "--help").stdout


@pytest.mark.parametrize("name", ["merge.yml", "Recipe.YAML"])
def test_apply_takes_a_recipe_where_a_model_is_expected(phi, phi_tuned, tmp_path, name):
    entry = {"model": str(phi_tuned), "parameters": {"weight": 0.5}}
    merge = {"merge_method": "task_arithmetic", "base_model": str(phi), "models": [entry]}
    (tmp_path / name).write_text(json.dumps(merge), encoding="utf-8")
    folders = [tmp_path / "first", tmp_path / "named"]
    for folder, words in zip(folders, ([tmp_path / name], ["--config", tmp_path / name]), strict=True):
        done = run("apply", *words, "-o", folder, "-q")
        assert done.exit_code == 0, done.output
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1
    assert "no model folder gone.yml" in run("apply", "gone.yml", "--negate", phi_tuned).stderr
