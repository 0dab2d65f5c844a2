"""Recipes: written by hand, or by an edit that is then repeated; hostile ones."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import oracle
import pytest
import tiny
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.checkpoints.provenance import read_provenance
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.read_recipe import parse_recipe
from taskarith.errors import UsageError
from taskarith.spec import OperandRef
from taskarith.vectors.extract import extract


def run(*arguments):
    return CliRunner().invoke(app, ["apply", *map(str, arguments)], env={"COLUMNS": "500"})


def write(path, values):
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.fixture
def other(tmp_path, phi):
    return tiny.save_model(tmp_path / "other", nudge_of=phi, seed=5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("coefficient", -0.5),
        ("fingerprint", "f" * 32),
        ("against_model", True),
        ("base", "org/base"),
        ("scale", {"mlp": (0.5,)}),
    ],
)
def test_every_key_of_an_operand_may_be_given(key, value):
    (operand,) = parse_recipe(
        {"model": "m", "operands": [{"vector": "v", key: {"mlp": 0.5} if key == "scale" else value}]}
    ).operands
    assert operand == replace(OperandRef("v", 1.0), **{key: value})


def test_a_recipe_is_the_same_as_the_call(tmp_path, phi, phi_tuned, other):
    config = write(
        tmp_path / "recipe.yaml",
        {
            "model": str(phi),
            "operands": [
                {"vector": str(phi_tuned), "coefficient": -0.6, "scale": {"layers": [0, 1], "mlp": 0.5}},
                f"{other}:0.2",
                {"vector": str(other), "coefficient": "5e-1", "scale": ["layers.0=0..1"]},
            ],
            "alpha": 0.5,
            "scale": {"lm_head": 0},
            "dtype": "bfloat16",
            "output_dir": str(tmp_path / "out"),
            "method": "linear",
        },
    )
    done = run("--config", config)
    assert done.exit_code == 0, done.output
    references = [
        OperandRef(str(phi_tuned), -0.6, {"layers": (0.0, 1.0), "mlp": (0.5,)}),
        OperandRef(str(other), 0.2),
        OperandRef(str(other), 0.5, {"layers.0": (0.0, 1.0)}),
    ]
    again = apply(
        str(phi), operands=references, alpha=0.5, scale=["lm_head=0"], dtype="bfloat16", output_dir=tmp_path / "again"
    )
    assert fingerprint_model(tmp_path / "out") == again.fingerprint
    base = oracle.load(phi)
    name = "model.layers.1.self_attn.q_proj.weight"
    deltas = [oracle.load(one)[name].double() - base[name].double() for one in (phi_tuned, other, other)]
    expected = oracle.edit(base[name], deltas, [-0.6 * 0.5, 0.2 * 0.5, 0.5 * 0.5], oracle.torch.bfloat16)
    assert oracle.load(tmp_path / "out")[name].equal(expected)


@pytest.mark.parametrize("options", [[], ["--dtype", "float16", "--max-shard-size", "50KB"]])
def test_an_edit_is_repeated_from_its_record(tmp_path, monkeypatch, phi, phi_tuned, other, options):
    extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors")
    monkeypatch.chdir(tmp_path)
    scale = ["--scale", "layers=0..0.1..1", "--scale", "mlp=0.3"]
    first = run(
        phi, "--negate", "v.safetensors:0.7", "--add", "other:0.1", "--alpha", 0.9, *scale, "-o", "out", *options
    )
    assert first.exit_code == 0, first.output
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # paths in the record are relative to its folder
    second = run("--config", tmp_path / "out/taskarith.json", "-o", "again")
    assert second.exit_code == 0, second.output
    for path in (tmp_path / "out").glob("model*"):
        assert path.read_bytes() == (tmp_path / "elsewhere/again" / path.name).read_bytes()
    records = [read_provenance(tmp_path / name) for name in ("out", "elsewhere/again")]
    for record in records:
        del record["command"], record["time"], record["digest"]
    assert records[0] == records[1]
    third = run("--config", tmp_path / "elsewhere/again/taskarith.json", "-o", "other alpha", "--alpha", "-0.2")
    assert third.exit_code == 0, third.output
    assert json.loads((tmp_path / "elsewhere/other alpha/taskarith.json").read_text())["alpha"] == -0.2


def change(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.bias"][3] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("which", ["base", "tuned"])
def test_inputs_that_changed_are_refused_by_name(tmp_path, phi, phi_tuned, which):
    for name, source in (("base", phi), ("tuned", phi_tuned)):
        shutil.copytree(source, tmp_path / name)
    assert run(tmp_path / "base", "--add", tmp_path / "tuned", "-o", tmp_path / "out").exit_code == 0
    change(tmp_path / which)
    again = ["--config", tmp_path / "out/taskarith.json", "-o", tmp_path / "again"]
    done = run(*again)
    assert done.exit_code == 1
    assert f"{tmp_path / which} changed since the edit that is to be repeated" in done.output
    assert not (tmp_path / "again").exists()
    # what a flag names, or no longer reads, is not compared
    flag = {"base": [phi], "tuned": ["--add", tmp_path / "tuned"]}[which]
    done = run(*again, *flag)
    assert done.exit_code == 0, done.output
    if which == "tuned":
        assert "1 vectors of the recipe give way" in done.output
        assert run(*again, "--overwrite", "--alpha", 0).exit_code == 0
        assert run(*again, "--overwrite", "--scale", "mlp=0").exit_code == 0


def test_an_operand_on_the_hub_is_recorded_with_its_commit(tmp_path, monkeypatch, phi, phi_tuned):
    commit = "c" * 40
    repository = tmp_path / "hub/models--me--tuned"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    shutil.copytree(phi_tuned, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    done = run(phi, "--add", "me/tuned:0.5", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out/taskarith.json").read_text())["operands"][0]["name"] == f"me/tuned@{commit}"
    done = run("--config", tmp_path / "out/taskarith.json", "-o", tmp_path / "again")
    assert done.exit_code == 0, done.output
    assert fingerprint_model(tmp_path / "again") == fingerprint_model(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("operands: v", "operands 'v' are not a list"),
        ("operands: [3]", "cannot read the operand 3"),
        ("operands: [{coefficient: 1}]", "cannot read the operand"),
        ("operands: [{vector: ''}]", "cannot read the operand"),
        ("operands: [{vector: v, weight: 1}]", "operand v has unknown keys: weight"),
        ("operands: [{vector: v, coefficient: .nan}]", "coefficient nan of v is not a finite number"),
        ("operands: [{vector: v, coefficient: -.inf}]", "coefficient -inf of v is not a finite number"),
        ("operands: [{vector: v, coefficient: half}]", "coefficient 'half' of v is not a finite number"),
        ("operands: [{vector: v, coefficient: true}]", "coefficient True of v is not a finite number"),
        ("operands: [{vector: v, coefficient: [1]}]", "coefficient [1] of v is not a finite number"),
        ("operands: [{vector: v, scale: 3}]", "cannot read the scale 3"),
        ("operands: [{vector: v, scale: {mlp: .nan}}]", "cannot read the scale 'mlp=nan'"),
        ("operands: ['v:nan']", "coefficient 'nan' of v is not finite"),
        ("operands: [v]\nadd: [w]", "operands beside add or negate"),
        ("opernads: [v]", "unknown keys: opernads"),
        ("add: {v: 0.5}", "add must be a plain value or a list of them"),
        ("add: [[v]]", "add must be a plain value or a list of them"),
        ("alpha: [1, 2]", "alpha must be a plain value"),
        ("alpha: one", "--alpha"),
        ("model: {a: b}", "model must be a plain value"),
        ("method: tries\nadd: [v]", "unknown method 'tries'"),
        ("method: {density: 1}", "the method has no name"),
        ("method: {name: linear, density: 1}\ndensity: 2", "density stands in the method and beside it"),
        ("method: {name: linear, density: 1}", "method linear has no density"),
        ("kind: evaluation", "the record of 'evaluation', not of an edit"),
        ("kind: edit", "the record of this edit is broken: KeyError('base')"),
        ("kind: edit\nbase: 3", "record of this edit is broken"),
        ("kind: edit\nbase: {name: m, fingerprint: f}\nalpha: 1\noperands: [{name: v, coefficient: x}]", "is broken"),
        ("a: &a [*a]\noperands: *a", "cannot read"),
        ("scale: !!python/object:os.system x", "cannot read"),
        (f"scale: {'[' * 5000}", "cannot read"),
        (f"alpha: 1\nscale: {{mlp: 0x{'f' * 9000}}}", "larger than any float"),
        ("- v", "must map option names"),
    ],
)
def test_a_recipe_that_cannot_be_read(tmp_path, text, words):
    done = run("--config", write(tmp_path / "c.yaml", text), "-o", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert words in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_a_bomb_of_aliases_does_not_explode(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    done = run("--config", write(tmp_path / "c.yaml", "\n".join([*lines, "scale: {mlp: *a29}"])))
    assert done.exit_code == 2
    assert len(done.output) < 2000


def test_a_method_passes_through_as_options():
    for text in ("method: {name: ties, density: 0.5}", "{method: ties, density: 0.5}"):
        assert parse_recipe(yaml.safe_load(text)).options == {"method": "ties", "density": 0.5}
    record = {"kind": "edit", "base": {"name": "m", "revision": "r", "fingerprint": "f"}, "alpha": 1, "operands": []}
    recipe = parse_recipe(record | {"method": {"name": "ties", "density": 0.5, "gamma": None}, "dtype": "BF16"})
    assert recipe.options == {"model": "m@r", "alpha": 1, "dtype": "bfloat16", "method": "ties", "density": 0.5}
    assert recipe.fingerprint == "f"
    with pytest.raises(UsageError, match="cannot read the scale"):
        parse_recipe(record | {"scale": {"mlp": None}})


def test_a_single_value_of_an_option_that_repeats(tmp_path, phi, phi_tuned):
    config = write(tmp_path / "c.yaml", {"negate": str(phi_tuned), "scale": "mlp=0", "dry_run": True, "json": True})
    done = run(phi, "--config", config)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["actions"] == {"copied": 8, "edited": 25}
