"""`taskarith eval` as a user types it."""

import json

import pytest
import tiny
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.edit.apply import apply

SMALL = ["--block-size", "48", "--prompts", "2", "--prompt-tokens", "6", "--continuation-tokens", "8"]


def run(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "forget.txt").write_text(tiny.text(9), encoding="utf-8")
    (folder / "other.txt").write_text(tiny.text(6, 7), encoding="utf-8")
    return ["--data", f"forget={folder / 'forget.txt'}", "--data", str(folder / "other.txt")]


def test_two_models_side_by_side(phi, phi_tuned, texts, tmp_path):
    result = run(phi, phi_tuned, *texts, *SMALL, "-o", tmp_path / "out", "--full")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith(("forget: ", "other: "))] == ["forget"] * 2 + [
        "other"
    ] * 2
    assert max(map(len, lines)) <= 100
    rows = [line for line in lines if line.startswith(f"{phi_tuned.name} ") and "[" in line]
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    for row, text in zip(rows[::2], ("forget", "other"), strict=True):
        loss = results["scores"][str(phi_tuned)][text]["loss"]
        assert f" {loss['value']:.3f} [{loss['low']:.3f}, {loss['high']:.3f}]" in row
    assert "missing: membership inference: needs losses of a text named holdout" in result.stderr
    assert "a second)" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "records.jsonl",
        "report.html",
        "results.json",
        "taskarith.json",
    ]
    again = run(phi, *texts, *SMALL, "-o", tmp_path / "out")
    assert again.exit_code == 1
    assert "already exists" in again.stderr


def test_an_edit_in_memory_as_json(phi, phi_tuned, texts):
    result = run(phi, "--negate", phi_tuned, "--alpha", "0,0.5", *texts, *SMALL, "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found["models"] == [f"{phi} alpha=0", f"{phi} alpha=0.5"]
    assert found["texts"] == ["forget", "other"]
    losses = [found["scores"][model]["forget"]["loss"]["value"] for model in found["models"]]
    assert losses[0] != losses[1]
    assert "stemming" in found["conventions"]["rouge_l_f1"]


def test_an_edit_without_alpha_is_shown_beside_the_model(phi, phi_tuned, texts):
    result = run(phi, "--add", f"{phi_tuned}:0.5", *texts, "--prompts", "0", "--json", "--quiet")
    assert json.loads(result.stdout)["models"] == [f"{phi} alpha=0", f"{phi} alpha=1"]


def test_a_recipe_is_evaluated_as_it_would_be_written(phi, phi_tuned, texts, tmp_path):
    other = tiny.save_model(tmp_path / "other", nudge_of=phi, seed=77)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"alpha: 0.5\nmethod: {{name: ties, density: 0.3}}\noperands:\n  - vector: {phi_tuned}\n    coefficient: -1\n"
        f"    scale: {{mlp: 0.5}}\n  - {other}:0.25\n"
    )
    written = CliRunner().invoke(app, ["apply", str(phi), "--config", str(recipe), "-o", str(tmp_path / "edited")])
    assert written.exit_code == 0, written.stderr
    run_one = run(phi, "--recipe", recipe, *texts, *SMALL, "--json", "--quiet", "-o", tmp_path / "eval")
    assert run_one.exit_code == 0, run_one.stderr
    found = json.loads(run_one.stdout)
    assert found["models"] == [f"{phi} alpha=0", f"{phi} alpha=0.5"]
    expected = json.loads(run(tmp_path / "edited", *texts, *SMALL, "--json", "--quiet").stdout)
    for text in ("forget", "other"):
        rows = found["scores"][f"{phi} alpha=0.5"][text], expected["scores"][str(tmp_path / "edited")][text]
        assert rows[0]["loss"] == rows[1]["loss"]
        assert rows[0]["rouge_l_f1"] == rows[1]["rouge_l_f1"]
    edit = json.loads((tmp_path / "eval" / "taskarith.json").read_text())["edit"]
    assert edit["method"] == {"name": "ties", "density": 0.3}
    assert [one["coefficient"] for one in edit["operands"]] == [-1.0, 0.25]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("operands: [a.safetensors]\nvocab: intersection\n", "not adapted in memory"),
        ("operands: [a.safetensors]\nmethod: ties\n", "needs a density"),
        ("operands: [absent.safetensors]\n", "there is no vector absent.safetensors"),
        ("operands: [absent.safetensors]\nalpha: much\n", "the recipe's alpha 'much' is not a finite number"),
        ("operands: [absent.safetensors]\nalpha: .inf\n", "the recipe's alpha inf is not a finite number"),
    ],
)
def test_recipes_that_cannot_be_evaluated(phi, texts, tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)
    result = run(phi, "--recipe", tmp_path / "recipe.yaml", *texts, *SMALL)
    assert result.exit_code in {1, 2}
    assert message in result.stderr
    both = run(phi, "--recipe", tmp_path / "recipe.yaml", "--add", phi, "--alpha", "1", *texts)
    assert "a recipe and vectors are given" in both.stderr


def test_the_record_of_an_edit_is_a_recipe_from_wherever_it_is_read(phi, phi_tuned, texts, tmp_path, monkeypatch):
    apply(str(phi), add=[f"{phi_tuned}@@{phi}"], alpha=0.5, output_dir=tmp_path / "deep/edited")
    monkeypatch.chdir(tmp_path)  # the record names its models relative to its own folder
    found = json.loads(run(phi, "--recipe", "deep/edited/taskarith.json", *texts, *SMALL, "--json", "--quiet").stdout)
    assert found["models"] == [f"{phi} alpha=0", f"{phi} alpha=0.5"]


def test_options_come_from_a_file_and_flags_win(phi, texts, tmp_path):
    config = tmp_path / "eval.yaml"
    config.write_text("prompts: 3\nprompt-tokens: 6\ncontinuation-tokens: 8\nblock-size: 48\n", encoding="utf-8")
    result = run(phi, *texts, "--config", config, "--prompts", "2", "--json", "--quiet")
    assert json.loads(result.stdout)["scores"][str(phi)]["forget"]["rouge_l_f1"]["n"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{phi}"], 2, "--data"),
        (["--data", "{text}"], 2, "MODEL"),
        (["{phi}", "--data", "a={text}", "--data", "a={text}"], 2, "two data sets are named 'a'"),
        (["{phi}", "--data", "a={text}", "--alpha", "1"], 2, "--alpha is given without a vector"),
        (["{phi}", "--data", "a={text}", "--negate", "{phi}", "--alpha", "many"], 2, "cannot read alpha 'many'"),
        (["{phi}", "--data", "a={text}", "--negate", "{phi}", "--alpha", ""], 2, "cannot read alpha ''"),
        (["{phi}", "--data", "a={text}", "--batch-size", "0"], 2, "--batch-size 0"),
        (["{phi}", "--data", "a={text}", "--batch-size", "two"], 2, "--batch-size two"),
        (["{phi}", "--data", "a={text}", "--prompts", "-1"], 2, "--prompts -1 is out of range"),
        (["{phi}", "--data", "a={text}", "--dtype", "int4"], 2, "unknown dtype 'int4'"),
        (["{phi}", "--data", "a={text}", "--device", "abacus"], 2, "abacus"),
        (["{phi}", "--data", "a={text}", "--prompt-tokens", "10000"], 1, "too few for a prompt of 10000"),
        (["{phi}", "--data", "a={text}.gone"], 1, "forget.txt.gone"),
        (["{phi}-gone", "--data", "a={text}"], 1, "there is no model folder"),
        (["{phi}", "--data", "a={text}", "--prompts", "0", "--negate", "gone.st"], 1, "there is no vector gone.st"),
    ],
)
def test_mistakes_are_two_lines_and_an_exit_code(arguments, code, message, phi, texts, tmp_path):
    text = texts[1].partition("=")[2]
    result = run(*(a.format(phi=phi, text=text) for a in arguments), "-o", tmp_path / "out")
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []
    if code == 1 or "Usage" not in result.stderr:
        errors = [line for line in result.stderr.splitlines() if not line.startswith(str(phi))]
        assert [line[:7] for line in errors] == ["error: ", "hint:  "]
