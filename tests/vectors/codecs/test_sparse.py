"""Sparse task vectors: which entries they keep, against numpy; and edits with them, against the oracle."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import tiny
import torch
from adapters import save_adapter
from packed_forms import check_apply, largest
from safetensors.torch import load_file, save_file

from taskarith.errors import MismatchError, UsageError
from taskarith.vectors.extract import extract

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_values_are_rounded_once_to_their_dtype(tmp_path, dtype, phi, phi_tuned):
    result = extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors", top_k=0.1, dtype=dtype)
    before, after = oracle.load(phi), oracle.load(phi_tuned)
    exact = {name: after[name].double() - before[name].double() for name in sorted(before)}
    chosen = exact if dtype == "float64" else {name: delta.float() for name, delta in exact.items()}
    whole = np.concatenate([delta.numpy().ravel() for delta in chosen.values()])
    flat = np.where(largest(whole, round(0.1 * whole.size)), whole, 0)
    parts = np.split(flat, np.cumsum([delta.numel() for delta in chosen.values()])[:-1])
    wanted = {
        name: torch.from_numpy(part.reshape(exact[name].shape)).to(DTYPES[dtype]).double().numpy()
        for name, part in zip(exact, parts, strict=True)
    }
    check_apply(phi, result.path, wanted, tmp_path / "out")
    assert (result.loss.error**2 + result.loss.energy) == pytest.approx(1)


def test_what_cannot_be_is_refused(tmp_path, phi, phi_tuned):
    def call(**options):
        return extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors", **options)

    for share in (0.0, -0.1, 1.01, float("nan")):
        for option in ("top_k", "rows"):
            with pytest.raises(UsageError, match="above 0 and at most 1"):
                call(**{option: share})
    with pytest.raises(UsageError, match="--exact and --top-k are different forms"):
        call(exact=True, top_k=0.1)
    with pytest.raises(UsageError, match="--top-k-per tensor"):
        call(rows=0.1, top_k_per="tensor")
    with pytest.raises(UsageError, match="--top-k-per layer"):
        call(top_k=0.1, top_k_per="layer")
    assert list(tmp_path.iterdir()) == []


def test_deltas_that_are_not_finite_are_refused(tmp_path, phi):
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=phi, seed=1)
    tensors = load_file(tuned / "model.safetensors")
    tensors["lm_head.bias"][0] = float("nan")
    tensors["lm_head.weight"][0, 0] = 1e6
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    for options in ({"top_k": 0.1}, {"rows": 0.1}, {"bits": 8}, {"bits": 1}):
        with pytest.raises(MismatchError, match=r"not finite: lm_head\.bias"):
            extract(str(phi), str(tuned), tmp_path / "v.safetensors", **options)
    with pytest.raises(MismatchError, match=r"of lm_head\.weight overflows F16"):
        extract(str(phi), str(tuned), tmp_path / "v.safetensors", top_k=0.1, dtype="float16")
    assert {path.name for path in tmp_path.iterdir()} == {"tuned"}


def test_an_adapter_is_packed_as_its_merged_deltas(tmp_path, phi):
    adapter = save_adapter(phi, tmp_path / "adapter")
    dense = load_file(extract(str(phi), str(adapter), tmp_path / "dense.safetensors").path)
    result = extract(str(phi), str(adapter), tmp_path / "v.safetensors", top_k=0.1, top_k_per="tensor")
    wanted = {name: torch.zeros_like(value).numpy() for name, value in oracle.load(phi).items()}
    for name, delta in dense.items():
        wanted[name] = np.where(largest(delta.numpy(), round(0.1 * delta.numel())), delta.numpy(), 0)
    assert result.inexact is None
    check_apply(phi, result.path, wanted, tmp_path / "out")
    with pytest.raises(UsageError, match="an adapter stores no fine-tuned weights"):
        extract(str(phi), str(adapter), tmp_path / "w.safetensors", exact=True)
