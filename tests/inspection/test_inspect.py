"""`inspect`: what it says of vectors, adapters, models and other files, against numpy; and of broken ones."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tiny
import torch
from commands import invoke
from inspecting import write
from safetensors.torch import load_file, save_file

import taskarith
from taskarith.arithmetic.parallel import CHUNK_ELEMENTS
from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.errors import VectorError
from taskarith.vectors.extract import extract


@pytest.fixture(scope="module")
def vector(tmp_path_factory, phi, phi_tuned):
    """A task vector file."""
    path = tmp_path_factory.mktemp("vector") / "v.safetensors"
    extract(str(phi), str(phi_tuned), path)
    return path


def write_adapter(folder, factors, **config):
    """Write a LoRA folder from A and B by module."""
    folder.mkdir()
    tensors = {}
    for module, (a, b) in factors.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.as_tensor(a)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.as_tensor(b)
    save_file(tensors, folder / "adapter_model.safetensors")
    defaults = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "org/base", "revision": "r1"}
    (folder / "adapter_config.json").write_text(json.dumps(defaults | config))
    return folder


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_sizes_are_those_of_numpy(tmp_path, dtype):
    torch.manual_seed(0)
    long = torch.randn(3, CHUNK_ELEMENTS).to(dtype)
    long[1, ::7] = 0
    long[0, 0] = -0.0
    found = taskarith.inspect(write(tmp_path / "a.safetensors", long=long, short=torch.tensor([3, -4]).to(dtype)))
    wide = long.double().numpy()
    first, second = sorted(found.tensors, key=lambda tensor: tensor.name)
    assert first.norm == pytest.approx(np.linalg.norm(wide), rel=1e-13)
    assert first.rms == pytest.approx(np.sqrt((wide**2).mean()), rel=1e-13)
    assert first.zeros == (wide == 0).sum()
    assert first.largest == np.abs(wide).max()
    assert first.nonfinite == 0
    assert (second.norm, second.rms, second.largest, second.zeros) == (5.0, 5 / math.sqrt(2), 4.0, 0)
    assert found.norm == pytest.approx(math.hypot(np.linalg.norm(wide), 5), rel=1e-13)
    assert found.zeros == (wide == 0).sum() / (wide.size + 2)
    assert (found.kind, found.elements, found.nbytes) == ("file", wide.size + 2, (wide.size + 2) * dtype.itemsize)


def test_empty_zero_dimensional_integer_and_broken_tensors(tmp_path):
    path = write(
        tmp_path / "odd.safetensors",
        {"format": "pt", "note": "mine"},
        empty=torch.zeros(0, 5),
        scalar=torch.tensor(-2.5),
        steps=torch.arange(7),
        flag=torch.tensor(True),
        broken=torch.tensor([math.nan, math.inf, -math.inf, 3.0, 0.0]),
        lost=torch.tensor([math.nan]),
    )
    found = taskarith.inspect(str(path))
    tensors = {tensor.name: tensor for tensor in found.tensors}
    assert (tensors["empty"].norm, tensors["empty"].rms, tensors["empty"].zeros) == (0.0, 0.0, 0)
    assert (tensors["scalar"].norm, tensors["scalar"].elements, tensors["scalar"].shape) == (2.5, 1, ())
    assert tensors["steps"].norm is tensors["steps"].rms is tensors["flag"].zeros is tensors["flag"].nonfinite is None
    broken = tensors["broken"]
    assert (broken.norm, broken.largest, broken.zeros, broken.nonfinite) == (3.0, 3.0, 1, 3)
    assert broken.rms == math.sqrt(9 / 2)
    assert (tensors["lost"].norm, tensors["lost"].nonfinite) == (0.0, 1)
    assert found.dtypes == {"F32": 4, "I64": 1, "BOOL": 1}
    assert found.norm == math.hypot(2.5, 3)
    assert found.nonfinite == 4
    assert found.record == {"format": "pt", "note": "mine"}
    assert found.base is None
    done = invoke("inspect", path)
    assert "note        mine" in done.stdout
    assert "4 not finite" in done.stdout
    rows = done.stdout.partition("largest 4 of 6 tensors")[2].splitlines()[2:]
    assert [row.split()[0] for row in rows] == ["broken", "lost", "scalar", "empty"]  # what is broken comes first


def test_a_file_without_tensors(tmp_path):
    found = taskarith.inspect(write(tmp_path / "none.safetensors"))
    assert (found.tensors, found.norm, found.zeros) == ((), 0.0, 0.0)
    assert "none" in invoke("inspect", tmp_path / "none.safetensors").stdout


def test_a_vector_says_where_it_comes_from(vector, phi, phi_tuned):
    found = taskarith.inspect(vector)
    deltas = [delta.double().numpy().ravel() for delta in load_file(vector).values()]
    assert (found.kind, found.base.name, found.base.fingerprint) == ("vector", str(phi), fingerprint_model(phi))
    assert found.norm == pytest.approx(np.linalg.norm(np.concatenate(deltas)), rel=1e-13)
    assert found.record["finetuned"]["name"] == str(phi_tuned)
    assert found.record["versions"]["numpy"] == np.__version__
    assert not {"base_tensors", "deltas"} & found.record.keys()
    shown = invoke("inspect", vector, "--top", 3).stdout
    for word in (f"task vector {vector}", found.base.fingerprint, str(phi_tuned), "F32", "moved", "inexact", "command"):
        assert word in shown, word
    rows = shown.partition("largest 3 of 33 tensors")[2].splitlines()[2:]
    largest = sorted(found.tensors, key=lambda tensor: -tensor.norm)[:3]
    assert [row.split()[0] for row in rows] == [tensor.name for tensor in largest]
    assert f"{largest[0].norm:.4g}" in rows[0]


def test_a_vector_that_cannot_be_applied_can_be_looked_at(tmp_path):
    path = write(tmp_path / "v.safetensors", {"format": "taskarith-vector", "format_version": "99"}, a=[1.0])
    found = taskarith.inspect(path)
    assert (found.kind, found.base, found.norm) == ("vector", None, 1.0)
    assert "version 99" in found.remarks[0]
    assert "cannot be applied" in invoke("inspect", path).stderr


def test_models_shards_and_their_record(tmp_path, phi):
    sharded = tiny.save_model(tmp_path / "sharded", nudge_of=phi, scale=0.0, max_shard_size="30KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    one, many = taskarith.inspect(phi), taskarith.inspect(sharded)
    assert (one.kind, many.kind) == ("model", "model")
    assert {tensor.name: tensor for tensor in one.tensors} == {tensor.name: tensor for tensor in many.tensors}
    assert one.norm == pytest.approx(many.norm, rel=1e-15)
    record = {"kind": "full", "base": {"name": "org/base", "revision": "abc"}, "loss": math.nan, "tensors": {"a": 1}}
    (sharded / "taskarith.json").write_text(json.dumps(record))
    done = invoke("inspect", sharded)
    assert "base        org/base@abc" in done.stdout
    assert "kind        full" in done.stdout
    shown = json.loads(invoke("inspect", sharded, "--json").stdout)
    assert shown["record"] == {"kind": "full", "base": {"name": "org/base", "revision": "abc"}, "loss": None}


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"alpha_pattern": {"up": 3}}])
def test_an_adapter_shows_what_its_product_would_be(tmp_path, options):
    rng = np.random.default_rng(0)
    factors = {
        "layers.0.up": (rng.normal(size=(4, 6)), rng.normal(size=(10, 4))),
        "layers.0.down": (rng.normal(size=(4, 10)) * 1e180, rng.normal(size=(6, 4)) * 1e-170),
        "layers.1.up": (rng.normal(size=(4, 6)), np.zeros((10, 4))),
    }
    folder = write_adapter(tmp_path / "adapter", factors, **options)
    found = taskarith.inspect(folder)
    assert (found.kind, str(found.base), len(found.tensors)) == ("adapter", "org/base@r1", 6)
    targets = {target.name: target for target in found.targets}
    assert targets.keys() == factors.keys()
    norms = []
    for name, (a, b) in factors.items():
        alpha = 3 if "alpha_pattern" in options and name.endswith("up") else 8
        scale = alpha / 2 if "use_rslora" in options else alpha / 4
        with np.errstate(all="raise"):
            product = scale * (b @ a)
        norms.append(math.hypot(*product.ravel()))
        assert (targets[name].scale, targets[name].rank, targets[name].shape) == (scale, 4, product.shape)
        assert targets[name].norm == pytest.approx(norms[-1], rel=1e-12)
    assert found.norm == pytest.approx(math.hypot(*norms), rel=1e-12)
    shown = invoke("inspect", folder, "--top", 2).stdout.splitlines()
    assert shown[-3].split()[:3] == ["target", "shape", "rank"]
    assert [line.split()[0] for line in shown[-2:]] == ["layers.0.down", "layers.0.up"]


def test_an_adapter_that_is_broken_or_no_plain_lora(tmp_path):
    factors = {"up": (np.full((4, 6), math.nan), np.ones((10, 4))), "down": (np.ones((4, 10)), np.ones((6, 4)))}
    folder = write_adapter(tmp_path / "nan", factors)
    found = taskarith.inspect(folder)
    assert {target.name: target.norm for target in found.targets} == {
        "up": None,
        "down": pytest.approx(2 * 4 * 60**0.5),
    }
    assert (found.norm, found.nonfinite) == (None, 24)
    assert json.loads(invoke("inspect", folder, "--json").stdout)["norm"] is None
    assert "not finite" in invoke("inspect", folder).stdout
    dora = taskarith.inspect(write_adapter(tmp_path / "dora", factors, use_dora=True))
    assert (dora.targets, len(dora.tensors)) == ((), 4)
    assert "DoRA" in dora.remarks[0]
    nothing = taskarith.inspect(write_adapter(tmp_path / "r0", {"up": (np.ones((0, 6)), np.ones((10, 0)))}, r=0))
    assert "rank 0" in nothing.remarks[0]
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(VectorError, match="pickled"):
        taskarith.inspect(folder)
