"""Vectors in all their forms as a relation reads them."""

from __future__ import annotations

import math

import oracle
import pytest
import tiny
from adapters import merged
from relating import pair
from safetensors.torch import load_file

from taskarith.errors import MismatchError
from taskarith.inspection.inspect import inspect
from taskarith.relations.relate import relate
from taskarith.vectors.extract import extract


def test_forms_agree(room, phi, tmp_path):
    b = str(room / "b.safetensors")
    wanted = pair(relate([str(room / "a.safetensors"), b]))
    for form in (room / "exact.safetensors", room / "tuned-a"):
        assert pair(relate([str(form), b], model=str(phi))) == pytest.approx(wanted, rel=1e-12)
    adapter = room / "adapter"
    extract(str(phi), str(adapter), tmp_path / "dense.safetensors", dtype="float64")
    factored, dense = (relate([str(one), b], model=str(phi)) for one in (adapter, tmp_path / "dense.safetensors"))
    assert pair(factored) == pytest.approx(pair(dense), rel=1e-12)
    assert pair(factored) == pytest.approx(_dense_cosine(phi, adapter, b), rel=1e-4)  # PEFT merges in float32


def _dense_cosine(phi, adapter, other):
    before, after, b = oracle.load(phi), merged(phi, adapter), load_file(other)
    deltas = {name: after[name].double() - before[name].double() for name in before}
    inner = sum(float((deltas[name] * b[name]).sum()) for name in b)
    norms = [math.sqrt(sum(float((one**2).sum()) for one in each.values())) for each in (deltas, b)]
    return inner / norms[0] / norms[1]


def test_sparse_and_quantised_forms_are_read(room, phi, tmp_path):
    a = str(room / "a.safetensors")
    extract(str(phi), str(room / "tuned-a"), tmp_path / "sparse.safetensors", top_k=0.2)
    extract(str(phi), str(room / "tuned-a"), tmp_path / "bits.safetensors", bits=8)
    sparse = relate([a, str(tmp_path / "sparse.safetensors")])
    wanted = inspect(tmp_path / "sparse.safetensors").norm / inspect(room / "a.safetensors").norm
    assert pair(sparse) == pytest.approx(wanted, rel=1e-6)  # <a, s> = |s|^2
    assert sparse.weights.overlaps[0.1][0, 1] == pytest.approx(1)
    assert pair(relate([a, str(tmp_path / "bits.safetensors")])) > 0.9999


def test_a_base_that_is_gone_is_named(room, phi, tmp_path):
    base = tiny.save_model(tmp_path / "base", nudge_of=phi, seed=4)
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=5)
    extract(str(base), str(tuned), tmp_path / "v.safetensors")
    base.rename(tmp_path / "elsewhere")
    vectors = [str(tmp_path / "v.safetensors")] * 2
    with pytest.raises(MismatchError, match=rf"base that .*v\.safetensors records is not found: .*{base}") as caught:
        relate(vectors)
    assert "--model" in caught.value.hint
    assert pair(relate(vectors, model=str(tmp_path / "elsewhere"))) == pytest.approx(1)
