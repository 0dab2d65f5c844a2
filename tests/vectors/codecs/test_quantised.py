"""Quantised task vectors: codes and scales against numpy, and edits with them against the oracle."""

from __future__ import annotations

import json

import numpy as np
import oracle
import pytest
import tiny
import torch
from commands import invoke
from hypothesis import given
from hypothesis import strategies as st
from packed_forms import check_apply, deltas_of
from safetensors import safe_open

from taskarith.edit.apply import apply
from taskarith.errors import UsageError
from taskarith.vectors.codecs import quantised
from taskarith.vectors.extract import extract


def quantise(delta, bits):
    """Return a delta as the vector file should hold it."""
    if delta.ndim < 2:
        return delta
    wide = np.abs(delta.astype(np.float64))
    if bits == 1:
        scale = wide.mean(-1, keepdims=True).astype(np.float32)
        return np.where(delta < 0, -scale, scale)
    most = 2 ** (bits - 1) - 1
    scale = (wide.max(-1, keepdims=True) / most).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        codes = np.where(scale > 0, np.rint(delta.astype(np.float64) / scale), 0)
    return np.clip(codes, -most, most).astype(np.float32) * scale


@pytest.mark.parametrize("bits", [8, 4, 1])
@pytest.mark.parametrize("kind", ["phi", "moe"])
def test_an_edit_is_that_of_the_rounded_deltas(tmp_path, bits, kind):
    base = tiny.save_model(tmp_path / "base", kind, max_shard_size="60KB")
    tuned = tiny.save_model(tmp_path / "tuned", kind, nudge_of=base, seed=1)
    result = extract(str(base), str(tuned), tmp_path / "v.safetensors", bits=bits)
    deltas = deltas_of(base, tuned)
    wanted = {name: quantise(delta, bits) for name, delta in deltas.items()}
    check_apply(base, result.path, wanted, tmp_path / "out")
    distances = {name: np.linalg.norm(wanted[name].astype(np.float64) - delta) for name, delta in deltas.items()}
    norms = {name: np.linalg.norm(delta.astype(np.float64)) for name, delta in deltas.items()}
    whole = np.hypot.reduce(list(distances.values())) / np.hypot.reduce(list(norms.values()))
    assert result.loss.error == pytest.approx(whole, rel=1e-9)
    errors = {name: distances[name] / norms[name] for name in norms}
    assert result.loss.worst == max(errors, key=errors.get)
    assert result.loss.errors == pytest.approx(errors, rel=1e-9, abs=1e-12)
    with safe_open(result.path, "pt") as file:
        assert json.loads(file.metadata()["worst_error"]) == result.loss.worst_error


def test_the_error_is_said_and_is_that_of_a_gaussian(tmp_path, phi, phi_tuned):
    done = invoke("extract", str(phi), str(phi_tuned), "-o", str(tmp_path / "v.safetensors"), "--bits", "1", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["loss"]["error"] == pytest.approx((1 - 2 / np.pi) ** 0.5, rel=0.03)  # of signs of a normal variable
    assert f"relative error {found['loss']['error']:.3g}, at worst" in done.stderr
    assert found["kind"] == "quantised"


@given(st.lists(st.integers(-127, 127), min_size=1, max_size=40), st.sampled_from([8, 4, 1]))
def test_codes_come_back(codes, bits):
    most = 1 if bits == 1 else 2 ** (bits - 1) - 1
    array = np.array([max(-most, min(most, code)) or (1 if bits == 1 else 0) for code in codes], np.int8)
    data = quantised._to_bytes(array, bits)
    assert len(data) == (len(codes) * bits + 7) // 8
    assert (quantised._from_bytes(data, len(codes), bits) == array).all()


def test_halves_are_rounded_to_even_and_rows_of_zeros_stay():
    values = np.array([0.5, 1.5, 2.5, -0.5, -3.5, 127.0], np.float32)
    codes = quantised._quantise(values, np.ones(6, np.float32), 8)
    assert codes.tolist() == [0, 2, 2, 0, -4, 127]
    assert quantised._quantise(np.zeros(3, np.float32), np.zeros(3, np.float32), 4).tolist() == [0, 0, 0]


def test_other_bits_and_dtypes_are_refused(tmp_path, phi, phi_tuned):
    with pytest.raises(UsageError, match="--bits is 3"):
        extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors", bits=3)
    with pytest.raises(UsageError, match="--bits takes no --dtype"):
        extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors", bits=8, dtype="float16")
    options = ("-o", str(tmp_path / "v"), "--bits", "8", "--top-k", "0.1")
    done = invoke("extract", str(phi), str(phi_tuned), *options)
    assert done.exit_code == 2
    assert "--top-k and --bits are different forms" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_several_vectors_of_all_forms_make_one_edit(tmp_path, phi, phi_tuned):
    deltas = deltas_of(phi, phi_tuned)
    forms = [{"bits": 4}, {"exact": True}, {"rows": 0.5}]
    paths = [
        extract(str(phi), str(phi_tuned), tmp_path / f"{i}.safetensors", **form).path for i, form in enumerate(forms)
    ]

    apply(str(phi), add=[f"{paths[0]}:0.5", str(paths[1])], negate=[f"{paths[2]}:0.25"], output_dir=tmp_path / "out")
    again = [str(paths[1]), f"{paths[0]}:0.5"]
    apply(str(phi), negate=[f"{paths[2]}:0.25"], add=again, output_dir=tmp_path / "again")
    assert oracle.differing(oracle.load(tmp_path / "out"), oracle.load(tmp_path / "again")) == []
    before, after, rows = oracle.load(phi), oracle.load(phi_tuned), {}
    for name, delta in deltas.items():
        rows[name] = delta.copy()
        if delta.ndim >= 2:
            norms = (delta.astype(np.float64) ** 2).sum(1)
            rows[name][np.argsort(-norms, kind="stable")[round(len(norms) / 2) :]] = 0
    wanted = {
        name: oracle.edit(
            value,
            [
                torch.from_numpy(quantise(deltas[name], 4)),
                after[name].double() - value.double(),
                torch.from_numpy(rows[name]),
            ],
            [0.5, 1.0, -0.25],
            value.dtype,
        )
        for name, value in before.items()
    }
    assert oracle.differing(oracle.load(tmp_path / "out"), wanted) == []
