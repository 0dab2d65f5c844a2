"""Deltas of sums of vectors, and what is summed over them."""

from __future__ import annotations

import pytest
import tiny
import torch
from safetensors.torch import load_file

from taskarith.edit.deltas import inner_products, read_delta, shapes_of
from taskarith.errors import MismatchError
from taskarith.vectors.extract import extract
from taskarith.vectors.open import open_packed


def test_a_tensor_that_one_sum_does_not_move_counts_as_zero(trio, tmp_path):
    base, first, _, tuned = trio
    extract(str(base), str(tuned), tmp_path / "sparse.safetensors", top_k=0.05, dtype="float32")
    dense, sparse = open_packed(first), open_packed(tmp_path / "sparse.safetensors")
    deltas = {name: tensor.double() for name, tensor in load_file(first).items()}
    whole = [(2.0, dense)]
    assert shapes_of(whole) == {name: tuple(tensor.shape) for name, tensor in deltas.items()}
    name = next(iter(deltas))
    assert torch.equal(torch.from_numpy(read_delta(whole, name)), 2 * deltas[name])
    own, its, both = inner_products(whole, [(1.0, sparse)])
    wanted = sum(
        (2 * deltas[name] * torch.from_numpy(read_delta([(1.0, sparse)], name))).sum()
        for name in shapes_of([(1, sparse)])
    )
    assert own == pytest.approx(sum((4 * tensor.square()).sum().item() for tensor in deltas.values()), rel=1e-12)
    assert both == pytest.approx(wanted.item(), rel=1e-9)
    assert 0 < its < own


def test_tensors_of_other_shapes_are_not_compared(tmp_path):
    sums = []
    for kind in ("phi", "llama"):
        base = tiny.save_model(tmp_path / kind, kind)
        tuned = tiny.save_model(tmp_path / f"{kind} tuned", kind, nudge_of=base, seed=1)
        extract(str(base), str(tuned), tmp_path / f"{kind}.safetensors")
        sums.append([(1.0, open_packed(tmp_path / f"{kind}.safetensors"))])
    assert shapes_of(sums[0]).keys() & shapes_of(sums[1]).keys()
    with pytest.raises(MismatchError, match="has different shapes"):
        inner_products(*sums)
    with pytest.raises(MismatchError, match="has different shapes"):
        inner_products([*sums[0], *sums[1]])
