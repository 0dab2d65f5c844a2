"""`diff`: bits, elements and distances against numpy; exit codes as a shell script needs them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tiny
import torch
from commands import invoke, run
from safetensors.torch import load_file, save_file

import taskarith
from taskarith.arithmetic.parallel import CHUNK_ELEMENTS


@pytest.fixture
def pair(tmp_path):
    """Return a function that writes two sets of tensors and compares them."""

    def compare(first, second):
        paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
        for path, tensors in zip(paths, (first, second), strict=True):
            save_file({name: torch.as_tensor(value) for name, value in tensors.items()}, path)
        return taskarith.diff(*paths)

    return compare


def f32(*values):
    return torch.tensor(values, dtype=torch.float32)


def test_shards_do_not_matter(tmp_path, phi):
    sharded = tiny.save_model(tmp_path / "sharded", nudge_of=phi, scale=0.0, max_shard_size="30KB")
    found = taskarith.diff(phi, sharded)
    assert found.is_equal
    assert (found.differing, found.relative, found.largest) == (0, 0.0, 0.0)
    done = run("diff", phi, sharded)
    elements = sum(tensor.numel() for tensor in load_file(phi / "model.safetensors").values())
    assert (done.returncode, done.stdout) == (0, f"equal to the bit: 33 tensors, {elements:,} elements\n")
    assert run("diff", phi, phi / "model.safetensors", "--quiet").returncode == 0


def test_one_bit_in_a_late_chunk_is_seen(pair):
    values = torch.randn(2 * CHUNK_ELEMENTS + 5, dtype=torch.float64)
    other = values.clone()
    other.view(torch.int64)[-1] ^= 1
    found = pair({"a": values, "same": f32(1)}, {"a": other, "same": f32(1)})
    tensor = {one.name: one for one in found.tensors}["a"]
    assert (tensor.differing, found.differing, found.is_equal) == (1, 1, False)
    assert tensor.largest == float((values[-1] - other[-1]).abs()) > 0
    assert tensor.norm == pytest.approx(np.linalg.norm(values.numpy()), rel=1e-13)


def test_bits_count_not_values(pair):
    nan = torch.tensor([0x7FC00000, 0x7FC00000], dtype=torch.int32).view(torch.float32)
    other = torch.tensor([0x7FC00000, 0x7F800001], dtype=torch.int32).view(torch.float32)
    found = pair(
        {"zero": f32(0, 1), "nan": nan, "inf": f32(math.inf, 3), "half": f32(math.inf, 3)},
        {"zero": f32(-0.0, 1), "nan": other, "inf": f32(math.inf, 3), "half": f32(-math.inf, 4)},
    )
    tensors = {tensor.name: tensor for tensor in found.tensors}
    zero = tensors["zero"]
    assert (zero.is_equal, zero.differing, zero.largest, zero.relative, zero.nonfinite) == (False, 1, 0.0, 0.0, 0)
    assert (tensors["nan"].differing, tensors["nan"].nonfinite) == (1, 1)
    assert tensors["inf"].is_equal
    half = tensors["half"]
    assert (half.differing, half.nonfinite, half.largest, half.relative) == (2, 1, 1.0, 1 / 3)
    assert (found.differing, found.nonfinite) == (4, 2)


def test_names_shapes_and_dtypes(pair, tmp_path):
    found = pair(
        {"old": f32(1), "grown": torch.ones(2, 3), "narrow": f32(1, 2.5, 1 / 3), "kind": f32(1), "n": torch.arange(4)},
        {
            "new": f32(1),
            "grown": torch.ones(3, 2),
            "narrow": f32(1, 2.5, 1 / 3).bfloat16(),
            "kind": torch.tensor([1]),
            "n": torch.tensor([0, 1, 5, 3]),
        },
    )
    assert (found.only_first, found.only_second, found.is_equal) == (("old",), ("new",), False)
    tensors = {tensor.name: tensor for tensor in found.tensors}
    assert tensors["grown"].differing is tensors["kind"].differing is tensors["grown"].relative is None
    narrow = tensors["narrow"]
    third = float(torch.tensor(1 / 3).float())
    assert (narrow.is_equal, narrow.differing, narrow.dtypes) == (False, 1, ("F32", "BF16"))
    assert narrow.largest == abs(third - float(torch.tensor(1 / 3).bfloat16()))
    assert narrow.norm == pytest.approx(math.hypot(1, 2.5, third), rel=1e-15)
    assert (tensors["n"].differing, tensors["n"].largest, tensors["n"].relative) == (1, None, None)
    done = invoke("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert done.exit_code == 1
    for words in (
        f"only in {tmp_path / 'a.safetensors'}: 1 tensors: old",
        f"only in {tmp_path / 'b.safetensors'}: 1 tensors: new",
        "different shape: 1 tensors: grown [2, 3] / [3, 2]",
        "different dtype: 2 tensors: ",
        "4 of 4 tensors and 2 of 7 elements differ",
        "F32/BF16",
    ):
        assert words in done.stdout, words


def test_equal_values_of_another_dtype_still_differ(pair, tmp_path):
    found = pair({"a": f32(1, 2)}, {"a": f32(1, 2).half()})
    assert (found.is_equal, found.differing, found.relative) == (False, 0, 0.0)
    done = invoke("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (done.exit_code, "largest differences" in done.stdout) == (1, False)
    assert "1 of 1 tensors and 0 of 2 elements differ" in done.stdout


def test_empty_and_zero_dimensional_tensors_and_zeros(pair, tmp_path):
    found = pair(
        {"none": torch.zeros(0, 3), "one": torch.tensor(2.0), "zero": f32(0, 0)},
        {"none": torch.zeros(0, 3), "one": torch.tensor(2.5), "zero": f32(0, 1)},
    )
    tensors = {tensor.name: tensor for tensor in found.tensors}
    assert (tensors["none"].is_equal, tensors["none"].relative) == (True, 0.0)
    assert (tensors["one"].relative, tensors["one"].shapes) == (0.25, ((), ()))
    assert (tensors["zero"].relative, tensors["zero"].distance, tensors["zero"].norm) == (None, 1.0, 0.0)
    rows = invoke("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors").stdout.splitlines()[-2:]
    assert [row.split()[0] for row in rows] == ["zero", "one"]  # against nothing, every change is the largest
    assert pair({}, {}).is_equal


def test_the_edges_of_float64_stay_json(pair, tmp_path):
    most = torch.tensor([1.7e308, 1.7e308, 1.7e308, 1.7e308], dtype=torch.float64)
    found = pair({"a": most, "b": most.clone()}, {"a": -most, "b": most / 2})
    tensors = {tensor.name: tensor for tensor in found.tensors}
    assert (tensors["a"].nonfinite, tensors["a"].largest) == (4, 0.0)  # the differences overflow
    assert tensors["b"].largest == 1.7e308 / 2
    done = invoke("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["nonfinite"] == 4
    assert invoke("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors").exit_code == 1
