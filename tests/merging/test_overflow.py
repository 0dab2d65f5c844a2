"""Deltas that are finite and huge: sums of their squares overflow, which is an error that names the tensor."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from taskarith.edit.apply import apply
from taskarith.errors import MismatchError
from taskarith.merging.methods import METHODS, parse_method
from taskarith.relations.relate import relate
from taskarith.vectors.extract import extract


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    """A base, a sound vector, and one in float64 with values whose squares no float64 holds."""
    place = tmp_path_factory.mktemp("huge")
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "tuned"):
        (place / name).mkdir()
        (place / name / "config.json").write_text(json.dumps({"model_type": "llama"}))
        tensors = {f"{one}.weight": torch.randn(8, 6, generator=generator, dtype=torch.float64) for one in "ab"}
        save_file(tensors, place / name / "model.safetensors")
    extract(str(place / "base"), str(place / "tuned"), place / "v.safetensors", dtype="float64")
    with safe_open(place / "v.safetensors", "pt") as file:
        header = {key: value for key, value in file.metadata().items() if key != "deltas"}
    deltas = load_file(place / "v.safetensors")
    deltas["a.weight"] *= 1e200
    save_file(deltas, place / "huge.safetensors", metadata=header)
    return place


REFUSED = {"karcher", "model_stock", "nuslerp", "project", "rows", "sce", "slerp", "wudi"}
"""Methods that square deltas; in float64 the others can do with what is as huge as this."""


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"core_space", "perta"}))
def test_what_a_method_calculates_of_huge_deltas_is_finite_or_refused(tmp_path, huge, name):
    options = {"density": 0.5, "rank": 2}
    method = parse_method(name, **{key: options[key] for key in METHODS[name].parameters if key in options})
    vectors = [str(huge / "huge.safetensors"), str(huge / "v.safetensors")]
    how = {"add": vectors, "method": method}
    if name == "project":
        how = {"add": vectors[1:], "protect": vectors[:1], "method": method}
    if name in REFUSED:
        with pytest.raises(MismatchError) as caught:
            apply(str(huge / "base"), **how, output_dir=tmp_path / "out")
        assert "a.weight" in caught.value.message
        assert "a.weight=0" in caught.value.hint
        assert list(tmp_path.iterdir()) == []
    else:
        apply(str(huge / "base"), **how, output_dir=tmp_path / "out")
        assert all(bool(one.isfinite().all()) for one in load_file(tmp_path / "out" / "model.safetensors").values())
    apply(str(huge / "base"), **how, scale={"a.weight": 0}, output_dir=tmp_path / "without")


def test_a_relation_of_huge_deltas_is_refused(huge):
    vectors = [str(huge / name) for name in ("huge.safetensors", "v.safetensors")]
    with pytest.raises(MismatchError, match=r"too large: a\.weight\n"):
        relate(vectors, model=str(huge / "base"), rank=2)
