"""Deltas streamed through an operator: what it says of each tensor, of any shape, of finite numbers only."""

from __future__ import annotations

import shutil

import oracle
import pytest
import torch
from merging import DENSE, merge, method
from safetensors.torch import load_file, save_file

from taskarith.edit.apply import apply
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
