"""Operators for forgetting: golden values worked out by hand, laws, the command, what does not fit."""

from __future__ import annotations

import json

import numpy as np
import oracle
import pytest
import tiny
import torch
from merging import merge, method
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.errors import MismatchError, UsageError
from taskarith.inspection.verify import verify
from taskarith.vectors.extract import extract
from taskarith.vectors.file import WEIGHTS


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, phi):
    folder = tmp_path_factory.mktemp("tuned")
    return [str(tiny.save_model(folder / f"t{seed}", nudge_of=phi, seed=seed)) for seed in (31, 32, 33)]


# golden values


def test_negmerge_keeps_what_has_one_sign_in_all():
    one, two, three = [2.0, -1.0, 3.0, 0.0], [4.0, -3.0, -3.0, 1.0], [3.0, -2.0, 3.0, 1.0]
    assert merge(method("negmerge"), [one, two, three]).tolist() == [3, -2, 0, 0]
    assert merge(method("negmerge"), [one, two], [0.5, 1.0], alpha=-2.0).tolist() == [-5, 3.5, 0, 0]


def test_project_leaves_what_is_orthogonal_to_the_retained():
    forget, retained = [3.0, 4.0, 5.0], [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    assert np.allclose(merge(method("project"), [forget], guides=retained), [0, 0, 5], atol=1e-14)
    # off (1, 1, 0) alone: (3 + 4) / 2 of it is shared
    assert merge(method("project"), [forget], guides=retained[1:]).tolist() == [-0.5, 0.5, 5]
    assert merge(method("project"), [forget], [0.5], alpha=-1.0, guides=retained[1:]).tolist() == [0.25, -0.25, -2.5]
    assert merge(method("project"), [forget], guides=[forget]).tolist() == [0, 0, 0]


def test_retained_vectors_that_repeat_each_other_or_are_zero_do_no_harm():
    forget, retained = [3.0, 4.0, 5.0], [1.0, 1.0, 0.0]
    again = [[1e-3 * value for value in retained], retained, [0.0, 0.0, 0.0]]
    assert np.allclose(merge(method("project"), [forget], guides=again), [-0.5, 0.5, 5], atol=1e-13)
    nearly = [retained, [1.0, 1.0 + 1e-6, 0.0]]  # what parts these two is a rounding of what they are
    assert np.allclose(merge(method("project"), [forget], guides=nearly), [-0.5, 0.5, 5], atol=1e-5)


def test_perta_weighs_each_parameter():
    assert merge(method("perta"), [[2.0, 4.0], [0.0, 2.0]], [1.0, -1.0], guides=[[0.25, 0.5]]).tolist() == [0.5, 1.0]


# whole edits


def header(path) -> dict[str, str]:
    """Return the header of a file of weights for the base of a vector."""
    with safe_open(path, "pt") as file:
        return {key: value for key, value in file.metadata().items() if key != "deltas"} | {"kind": WEIGHTS}


def test_no_order_thread_or_chunk_of_the_retained_changes_a_bit(tmp_path, phi, tuned):
    how = method("project")
    one = apply(str(phi), negate=tuned[:1], protect=tuned[1:], output_dir=tmp_path / "a", method=how)
    two = apply(str(phi), negate=tuned[:1], protect=tuned[:0:-1], output_dir=tmp_path / "b", method=how, jobs=2)
    assert one.fingerprint == two.fingerprint
    base, forget, *retained = (oracle.load(path) for path in [phi, *map(type(phi), tuned)])
    got = oracle.load(tmp_path / "a")
    expected = {}
    for name, values in base.items():
        delta = (forget[name].double() - values.double()).numpy()
        others = [(other[name].double() - values.double()).numpy() for other in retained]
        merged = merge(how, [delta], [-1.0], shape=values.shape, guides=others)
        assert all(abs(merged @ other.ravel()) <= 1e-12 * np.square(other).sum() for other in others)
        expected[name] = oracle.edit(values, [torch.from_numpy(merged).reshape(values.shape)], [1.0], values.dtype)
    assert oracle.differing(got, expected) == []


def test_weights_of_one_are_linear_and_of_zero_the_base(tmp_path, phi, tuned):
    vector = extract(str(phi), tuned[0], tmp_path / "v.safetensors", dtype="float64").path
    tensors = load_file(vector)
    for value in (0.0, 1.0):
        weights = tmp_path / f"w{value:g}.safetensors"
        save_file({name: torch.full_like(one, value) for name, one in tensors.items()}, weights, header(vector))
        options = {"weights": str(weights), "method": method("perta"), "dtype": "float64"}
        result = apply(str(phi), negate=[str(vector)], alpha=0.3, output_dir=tmp_path / f"o{value:g}", **options)
        plain = apply(
            str(phi),
            negate=[str(vector)],
            alpha=0.3 * value,
            output_dir=tmp_path / f"p{value:g}",
            dtype="float64",
        )
        assert result.fingerprint == plain.fingerprint


def test_a_parameter_without_a_weight_is_refused(tmp_path, phi, tuned):
    vector = extract(str(phi), tuned[1], tmp_path / "v.safetensors").path
    tensors = load_file(vector)
    name = "model.layers.1.mlp.fc1.weight"
    save_file({one: tensors[one] for one in tensors if one != name}, tmp_path / "less.safetensors", header(vector))
    with pytest.raises(MismatchError, match=f"no weights for {name}"):
        apply(
            str(phi),
            negate=tuned[:1],
            weights=str(tmp_path / "less.safetensors"),
            output_dir=tmp_path / "no",
            method=method("perta"),
        )
    assert not (tmp_path / "no").exists()


def test_the_command_its_record_and_the_same_in_memory(tmp_path, phi, tuned):
    call = ["apply", str(phi), "--negate", tuned[0], "--alpha", "0.5", "--method", "project", "--protect", tuned[1]]
    assert CliRunner().invoke(app, [*call, "-o", str(tmp_path / "out")]).exit_code == 0
    record = json.loads((tmp_path / "out" / "taskarith.json").read_text())
    assert [operand.get("role") for operand in record["operands"]] == [None, "protect"]
    assert verify(tmp_path / "out").is_sound
    again = ["apply", "--config", str(tmp_path / "out" / "taskarith.json"), "-o", str(tmp_path / "again")]
    assert CliRunner().invoke(app, again).exit_code == 0
    assert json.loads((tmp_path / "again" / "taskarith.json").read_text())["fingerprint"] == record["fingerprint"]
    model = AutoModelForCausalLM.from_pretrained(phi)
    with InMemoryEdit(model, str(phi), negate=tuned[:1], protect=tuned[1:2], method=method("project")) as edit:
        edit.set(0.5)
        assert oracle.differing(model.state_dict(), oracle.load(tmp_path / "out")) == []


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("project", {}, "needs --protect"),
        ("perta", {}, "needs --weights"),
        ("ties", {"protect": True}, "no use for --protect"),
        ("linear", {"protect": True}, "no use for --protect"),
        ("project", {"protect": True, "weights": True}, "no use for --weights"),
    ],
)
def test_guides_that_do_not_fit(tmp_path, phi, tuned, name, options, words):
    guides = {
        "protect": tuned[1:2] if options.get("protect") else (),
        "weights": None,
    }
    if "weights" in options:
        vector = extract(str(phi), tuned[1], tmp_path / "v.safetensors").path
        save_file(load_file(vector), tmp_path / "w.safetensors", header(vector))
        guides["weights"] = str(tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=words):
        apply(str(phi), negate=tuned[:1], output_dir=tmp_path / "no", method=method(name), **guides)


def test_protected_vectors_alone_is_no_edit(tmp_path, phi, tuned):
    with pytest.raises(UsageError, match="no vector is given"):
        apply(str(phi), protect=tuned[:1], output_dir=tmp_path / "no", method=method("project"))
