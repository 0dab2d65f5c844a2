"""Numbers and laws of the weights of vectors."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from relating import pair, write
from safetensors.torch import load_file

from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.relations import geometry as weights_module
from taskarith.relations.relate import relate


def flat(path):
    tensors = load_file(path)
    return np.concatenate([tensors[name].double().numpy().ravel() for name in sorted(tensors)])


def test_the_numbers_are_those_of_the_whole_vectors(room):
    a, b = (flat(room / f"{name}.safetensors") for name in "ab")
    found = relate([str(room / "a.safetensors"), str(room / "b.safetensors")])
    group = found.weights.group()
    assert group.norms == pytest.approx([np.linalg.norm(a), np.linalg.norm(b)], rel=1e-13)
    assert group.cosine(0, 1) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-10)
    assert group.sign_agreement(0, 1) == np.mean(a * b > 0)
    energy = a @ a + b @ b
    assert group.interference(0, 1) == pytest.approx(1 - (a + b) @ (a + b) / energy, rel=1e-8)
    for share in (0.01, 0.1):
        k = round(share * len(a))
        tops = [set(np.argsort(-np.abs(one))[:k]) for one in (a, b)]
        assert found.weights.overlaps[share][0, 1] == pytest.approx(len(tops[0] & tops[1]) / k)
    assert found.weights.sampled == len(a)


def test_groups_are_sums_over_their_tensors(room):
    a, b = (load_file(room / f"{name}.safetensors") for name in "ab")
    found = relate([str(room / "a.safetensors"), str(room / "b.safetensors")]).weights
    kinds = {"embedding": "embed_tokens", "head": "lm_head", "attention": "self_attn", "mlp": "mlp", "norm": "norm"}
    assert set(found.kinds) == set(kinds)
    for kind, part in kinds.items():
        names = [name for name in a if part in name]
        inner = sum(float((a[name] * b[name]).sum()) for name in names)
        assert found.of_kind(kind).gram[0, 1] == pytest.approx(inner, rel=1e-9, abs=1e-12), kind
    names = [name for name in a if ".layers.1." in name]
    assert found.layers == [0, 1]
    wanted = sum(float((a[name] ** 2).sum()) for name in names)
    assert found.of_layer(1).gram[0, 0] == pytest.approx(wanted, rel=1e-12)
    rest = [name for name in a if "embed" not in name and "lm_head" not in name]
    assert found.without_embeddings().gram[0, 1] == pytest.approx(
        sum(float((a[name] * b[name]).sum()) for name in rest), rel=1e-9
    )


def test_laws(room):
    a, b = str(room / "a.safetensors"), str(room / "b.safetensors")
    same = relate([a, a])
    assert same.names == ("a", "a#2")
    assert pair(same) == pytest.approx(1, abs=1e-12)
    assert pair(same, measure="sign_agreement") == 1
    assert pair(same, measure="interference") == pytest.approx(-1, abs=1e-12)
    assert same.weights.overlaps[0.01][0, 1] == 1
    opposite = relate([a, f"{a}:-1"])
    assert pair(opposite) == pytest.approx(-1, abs=1e-12)
    assert pair(opposite, measure="sign_agreement") == 0
    assert pair(opposite, measure="interference") == pytest.approx(1, abs=1e-12)
    plain, scaled = relate([a, b]), relate([f"{a}:4", f"{b}:0.125"])
    assert pair(scaled) == pytest.approx(pair(plain), rel=1e-12)
    assert (scaled.weights.overlaps[0.1] == plain.weights.overlaps[0.1]).all()
    assert scaled.weights.group().norms[0] == pytest.approx(4 * plain.weights.group().norms[0], rel=1e-12)
    assert pair(relate([b, a])) == pair(plain)


def test_threads_pieces_and_sampling(room, monkeypatch):
    vectors = [str(room / f"{name}.safetensors") for name in "ab"]
    whole = relate(vectors)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert relate(vectors).to_json() == whole.to_json()
    monkeypatch.setattr(weights_module, "_SAMPLE", 5000)
    sampled = relate(vectors).weights
    assert 2500 < sampled.sampled <= 5000
    monkeypatch.setattr(weights_module, "_CHUNK", 2 * BLOCK)
    assert relate(vectors).weights.group().gram.tolist() == sampled.group().gram.tolist()
    monkeypatch.setattr(weights_module, "_CHUNK", 100)
    monkeypatch.setitem(sys.modules, "taskarith.arithmetic.cpu", None)  # as if numba were not there: by torch
    pieces = relate(vectors).weights
    assert all((pieces.overlaps[share] == sampled.overlaps[share]).all() for share in sampled.overlaps)
    assert pieces.group().agreeing.tolist() == sampled.group().agreeing.tolist()
    assert pieces.group().opposing.tolist() == sampled.group().opposing.tolist()
    assert pieces.group().gram == pytest.approx(whole.weights.group().gram, rel=1e-12)


def test_a_zero_vector_has_no_direction(room, tmp_path):
    a = str(room / "a.safetensors")
    write(a, {name: torch.zeros_like(value) for name, value in load_file(a).items()}, tmp_path / "zero.safetensors")
    found = relate([a, str(tmp_path / "zero.safetensors")])
    assert pair(found) is None
    assert pair(found, measure="sign_agreement") is None
    assert any("zero is zero" in remark for remark in found.remarks)
    assert math.isnan(found.weights.overlaps[0.1][0, 1])
    json.dumps(found.to_json(), allow_nan=False)
