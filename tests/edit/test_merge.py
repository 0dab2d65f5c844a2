"""Deltas streamed through an operator: what it says of each tensor, of any shape, of finite numbers only."""

from __future__ import annotations

import shutil

import oracle
import pytest
import torch
from adapters import save_adapter
from merging import DENSE, merge, method
from safetensors.torch import load_file, save_file

from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
from taskarith.checkpoints.publish import publish
from taskarith.edit.apply import apply
from taskarith.edit.edit import Edit
from taskarith.edit.operands import open_edit
from taskarith.edit.plan import plan_edit
from taskarith.edit.run import run_plan
from taskarith.errors import MismatchError


@pytest.mark.parametrize("name", ["ties", "dare_ties", "model_stock"])
def test_an_edit_is_what_the_operator_says_of_each_tensor(tmp_path, phi, tuned, name):
    apply(str(phi), add=[f"{tuned[0]}:0.5", tuned[1]], alpha=0.9, output_dir=tmp_path / "out", method=method(name))
    base, got = oracle.load(phi), oracle.load(tmp_path / "out")
    sources = [oracle.load(one) for one in map(type(phi), tuned[:2])]
    expected = {}
    for key, values in base.items():
        deltas = [(source[key].double() - values.double()).numpy() for source in sources]
        merged = merge(method(name), deltas, [0.5, 1.0], 0.9, values.shape, names=[key, key])
        expected[key] = oracle.edit(values, [torch.from_numpy(merged).reshape(values.shape)], [1.0], values.dtype)
    assert oracle.differing(got, expected) == []


def test_tensors_without_elements_and_scalars(tmp_path, phi, tuned):
    folders = []
    for name, value in (("base", 1.0), ("one", 2.0), ("two", 4.0)):
        folder = tmp_path / name
        shutil.copytree(phi, folder)
        tensors = {"empty": torch.zeros(3, 0), "scalar": torch.tensor(value), "matrix": torch.eye(3) * value}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        folders.append(str(folder))
    for name in DENSE:
        result = apply(
            folders[0],
            add=[f"{one}@@{folders[0]}" for one in folders[1:]],
            output_dir=tmp_path / "out",
            overwrite=True,
            method=method(name, 1.0),
        )
        assert sum(result.actions.values()) == 3


@pytest.mark.parametrize("name", ["karcher", "model_stock", "nuslerp", "slerp"])
def test_scalar_products_are_the_same_whoever_takes_them_and_however_a_tensor_is_cut(
    tmp_path, phi, tuned, monkeypatch, name
):
    monkeypatch.setattr("taskarith.edit.merge.PIECE_ELEMENTS", 5000)
    adapter = save_adapter(phi, tmp_path / "adapter", target_modules=["q_proj"])
    base, edit = open_checkpoint(phi), Edit.from_options([f"{adapter}:0.5", f"{tuned[0]}:0.7"], method=method(name))
    plan, found = plan_edit(base, open_edit(edit, base), edit), set()
    for device, chunk in (("cpu", 50_000), ("cpu", 777), ("cpu", 63), ("torch", 1000)):
        with publish(tmp_path / f"{device} {chunk}", is_folder=True) as place:
            run_plan(plan, place, device=device, chunk=chunk)
        found.add(fingerprint_model(tmp_path / f"{device} {chunk}"))
    assert len(found) == 1


@pytest.mark.parametrize("name", DENSE)
def test_values_that_are_not_finite_are_refused(tmp_path, phi, tuned, name):
    broken = tmp_path / "broken"
    shutil.copytree(tuned[0], broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.embed_tokens.weight"][3, 4] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(MismatchError, match="finite"):
        apply(str(phi), add=[str(broken), tuned[1]], output_dir=tmp_path / "out", method=method(name))
    assert not (tmp_path / "out").exists()
