"""Recipes as they are read: every key, and whatever cannot be read is refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from recipes import run, write

from taskarith.edit.read_recipe import parse_recipe
from taskarith.errors import UsageError
from taskarith.spec import OperandRef


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
        ("operands: [v]\nadd: [w]", "operands as well as add or negate"),
        ("opernads: [v]", "unknown keys: opernads"),
        ("add: {v: 0.5}", "add must be a plain value or a list of them"),
        ("add: [[v]]", "add must be a plain value or a list of them"),
        ("alpha: [1, 2]", "alpha must be a plain value"),
        ("alpha: one", "--alpha"),
        ("model: {a: b}", "model must be a plain value"),
        ("method: tries\nadd: [v]", "unknown method 'tries'"),
        ("method: {density: 1}", "the method has no name"),
        ("method: {name: linear, density: 1}\ndensity: 2", "density is given in the method and beside it"),
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
