"""Commands as a user types them: what they import, exit codes, the two streams."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys

import pytest
from commands import invoke, run

import taskarith
from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.vectors.extract import extract


def test_the_arithmetic_imports_neither_torch_nor_transformers(tmp_path, phi, phi_tuned):
    calls = [
        ["extract", phi, phi_tuned, "-o", "v.safetensors"],
        ["apply", phi, "--add", "v.safetensors", "-o", "out", "--keep-undo"],
        ["verify", "out"],
        ["undo", "out", "-o", "back"],
        ["inspect", "out"],
        ["diff", "back", phi],
        ["ood", "v.safetensors", phi_tuned, "--model", phi, "--gamma", "0.8,-0.6"],
    ]
    code = (
        "import sys; from typer.testing import CliRunner; from taskarith.cli.main import app\n"
        f"for call in {[[str(word) for word in call] for call in calls]!r}:\n"
        "    done = CliRunner().invoke(app, call)\n"
        "    assert done.exit_code == 0, done.output\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'accelerate', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["taskarith.edit.apply", "taskarith.vectors.extract"])
def test_the_verbs_that_stream_files_import_no_numpy_before_they_need_it(module):
    code = f"import sys, {module}; assert not {{'numpy', 'torch', 'numba'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_taskarith_is_light_and_exports_the_verbs():
    code = "import sys, taskarith; assert 'torch' not in sys.modules; print(taskarith.__all__)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(taskarith.__all__)
    for name in taskarith.__all__:
        value = getattr(taskarith, name)
        assert isinstance(value, str) or inspect.getdoc(value), name
    assert set(taskarith.__all__) <= set(dir(taskarith))
    with pytest.raises(AttributeError, match="nonsense"):
        taskarith.nonsense  # noqa: B018


def test_the_whole_job_by_its_four_commands(tmp_path, phi, book):
    tuned = run(
        "finetune", phi, "--data", book, "-o", "runs/forget", "--block-size", 32, "--max-steps", 2, cwd=tmp_path
    )
    assert tuned.returncode == 0, tuned.stderr
    assert tuned.stdout.splitlines()[-1] == "runs/forget"
    extracted = run("extract", phi, "runs/forget", "-o", "forget.safetensors", cwd=tmp_path)
    assert extracted.returncode == 0, extracted.stderr
    assert extracted.stdout == "forget.safetensors\n"
    assert "elements" in extracted.stderr
    applied = run("apply", "--negate", "forget.safetensors", "--alpha", "1.0", cwd=tmp_path)
    assert applied.returncode == 0, applied.stderr
    assert applied.stdout == "base-minus-forget-alpha1\n"
    assert "33 edited" in applied.stderr
    data = [
        "--data",
        f"forget={book}",
        "--block-size",
        64,
        "--prompts",
        2,
        "--prompt-tokens",
        8,
        "--continuation-tokens",
        8,
    ]
    evaluated = run("eval", phi, "base-minus-forget-alpha1", *data, "-o", "results", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "forget" in evaluated.stdout
    assert "base-min…et-alpha1" in evaluated.stdout  # long names are shortened in tables
    assert {"records.jsonl", "results.json", "taskarith.json"} <= {
        path.name for path in (tmp_path / "results").iterdir()
    }


def test_json_is_the_only_thing_on_stdout(tmp_path, phi, phi_tuned):
    done = run("extract", phi, phi_tuned, "-o", tmp_path / "v.safetensors", "--json")
    assert json.loads(done.stdout)["tensors"] == 33
    done = run("apply", "--add", tmp_path / "v.safetensors", "-o", tmp_path / "out", "--json")
    record = json.loads(done.stdout)
    assert record["actions"] == {"edited": 33}
    assert record["fingerprint"] == fingerprint_model(phi_tuned)
    done = run("apply", "--add", tmp_path / "v.safetensors", "-o", tmp_path / "quiet", "--quiet")
    assert (done.stdout, done.stderr) == (f"{tmp_path / 'quiet'}\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["apply"], 2, "no vector is given"),
        (["apply", "--negate", "absent.safetensors"], 1, "there is no vector absent.safetensors"),
        (["apply", "absent", "--negate", "absent.safetensors"], 1, "there is no model folder absent"),
        (["apply", "--negate", "v", "--alpha", "one"], 2, "--alpha"),
        (["extract", "-o", "v.safetensors"], 2, "FINETUNED"),
        (["extract", "a", "b", "c", "-o", "v.safetensors"], 2, "BASE and FINETUNED"),
        (["extract", "absent", "gone", "-o", "v.safetensors"], 1, "there is no model folder absent"),
        (["finetune", "absent", "--data", "gone.txt", "-o", "out"], 1, "gone.txt"),
        (["eval", "absent", "--data", "forget=gone.txt"], 1, "gone.txt"),
        (["demo", "--model", "absent", "-o", "demo"], 1, "there is no model folder absent"),
        (["demo", "--model", "org/absent", "-o", "/dev/null/demo"], 1, "/dev/null"),
        (["paint"], 2, "no such command 'paint'"),
        (["evla"], 2, "Did you mean eval"),
        (["merge"], 2, "Did you mean apply?"),
        (["apply", "m", "v.safetensors"], 2, "Vectors follow --add or --negate"),
        (["apply", "--negate", "v", "--alpha", "0,1"], 2, "'0,1' is not a number"),
        (["apply", "--negate", "v", "--alpha=0,1"], 2, "eval and sweep take several"),
        (["finetune", "m", "--data", "x", "--max-steps", "2.5"], 2, "'2.5' is not a whole number"),
        (["finetune", "m", "--lora-rnk", "2"], 2, "Did you mean --lora-rank"),
        (["eval", "m", "--dry-run"], 2, "no such option: --dry-run\nhint:  See"),
        (["finetune"], 2, "See taskarith finetune --help"),
        (["finetune", "m", "--data", "a.txt", "b.txt", "-o", "out"], 2, "--data 'docs/*.txt'"),
    ],
)
def test_a_wrong_call_ends_with_words_and_its_exit_code(tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert words in result.output
    assert "Traceback" not in result.output
    assert result.stderr.startswith("error: ")
    assert "\nhint:  " in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("extract base tuned -o w.bin", "w.bin would be a safetensors file"),
        ("extract base tuned -o w.PT", "Name it w.safetensors"),
        ("importance base --forget a.txt --retain b.txt -o w.npz", "Name it w.safetensors"),
        ("inspect base/config.json", "Name its folder: base"),
        ("diff v.safetensors tuned", "v.safetensors is a task vector, and tuned a model"),
        ("diff tuned v.safetensors", "v.safetensors is a task vector, and tuned a model"),
        ("apply base --add v.safetensors --scale mlp:0.5", "cannot read the scale 'mlp:0.5'"),
        ("apply base --add v.safetensors:abc", "'abc' is no coefficient for v.safetensors"),
        ("apply base --add v.safetensors --device gpu", "cuda[:N], which is a GPU"),
        ("combine v.safetensors -tuned -o w", "Put spaces around every sign"),
        ("combine v.safetensors-tuned -o w", "Put spaces around every sign"),
        ("combine v.safetensors:0.5-tuned:0.3 -o w", "Put spaces around every sign"),
        ("combine v.safetensors+v.safetensors -o w", "Put spaces around every sign"),
        ("combine v.safetensors", "See taskarith combine --help"),
        ("combine v.safetensors --zzz -o w", "See taskarith combine --help"),
    ],
)
def test_what_somebody_meant_is_said(tmp_path, monkeypatch, phi, phi_tuned, call, words):
    monkeypatch.chdir(tmp_path)
    for name, model in (("base", phi), ("tuned", phi_tuned)):
        (tmp_path / name).symlink_to(model)
    extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("Some words.")
    before = sorted(tmp_path.iterdir())
    result = invoke(*call.split())
    assert result.exit_code in {1, 2}
    assert words in result.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["v.safetensors-2", "a+b"])
def test_a_name_may_have_signs(tmp_path, phi, phi_tuned, name):
    extract(str(phi), str(phi_tuned), tmp_path / name)
    done = invoke("combine", tmp_path / name, "+", tmp_path / f"{name}:0.5", "-o", tmp_path / "w.safetensors")
    assert done.exit_code == 0, done.stderr
    assert f"next: taskarith apply {phi} --add {tmp_path / 'w.safetensors'} --alpha 1.0" in done.stderr


def test_no_command_prints_the_help_as_it_is():
    done, wanted = invoke(), invoke("--help")
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", wanted.stdout)


def test_version():
    assert re.fullmatch(r"taskarith \d+\.\d+\.\d+\n", invoke("--version").stdout)


@pytest.mark.parametrize("seed", [-1, 1 << 32, 1 << 70])
@pytest.mark.parametrize("words", [["verify", "v"], ["eval", "m"], ["finetune", "m", "--data", "t", "-o", "o"]])
def test_a_seed_that_no_generator_takes_is_refused(words, seed):
    result = invoke(*words, "--seed", seed)
    assert result.exit_code == 2
    assert f"{seed} is not a number from 0 to" in " ".join(result.stderr.split())
