"""Combining LoRA adapters: their factors side by side, or the best ones of a lower rank."""

from __future__ import annotations

import oracle
import pytest
import torch
from adapters import TARGETS, merged, save_adapter

from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.errors import UsageError


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_adapters_side_by_side(adapters, tmp_path, name):
    base, (a, b, c) = adapters
    result = combine(f"{a}:0.6 - {b}:0.4 + {c}", tmp_path / "sum", dtype=name)
    assert (result.kind, result.rank, result.energy) == ("lora", 10, 1.0)
    apply(str(base), add=[f"{a}:0.6", str(c)], negate=[f"{b}:0.4"], output_dir=tmp_path / "each", dtype="float64")
    apply(add=[str(tmp_path / "sum")], output_dir=tmp_path / "once", dtype="float64")
    each, once, before = (oracle.load(folder) for folder in (tmp_path / "each", tmp_path / "once", base))
    for key, tensor in each.items():
        delta = tensor - before[key].double()
        error = (once[key] - tensor).norm() / delta.norm().clamp(min=1e-30)
        assert float(error) < (1e-6 if name == "float32" else 1e-12), key
    loaded = merged(base, tmp_path / "sum")
    for key, tensor in once.items():
        found = loaded[key if key in loaded else f"transformer.{key}"]
        torch.testing.assert_close(found, tensor.float(), rtol=1e-5, atol=1e-6)


def test_an_adapter_of_lower_rank_is_the_best_one(adapters, tmp_path):
    base, (a, b, _) = adapters
    whole, few = combine(f"{a} + {b}", tmp_path / "whole"), combine(f"{a} + {b}", tmp_path / "few", rank=2)
    assert (whole.rank, few.rank) == (8, 2)
    assert 0 < few.energy < 1
    for name in ("whole", "few"):
        apply(str(base), add=[str(tmp_path / name)], output_dir=tmp_path / f"out-{name}", dtype="float64")
    before, after, low = (oracle.load(folder) for folder in (base, tmp_path / "out-whole", tmp_path / "out-few"))
    kept = total = 0.0
    for key, tensor in after.items():
        delta = tensor - before[key].double()
        if not delta.any():
            continue
        sizes = torch.linalg.svdvals(delta)
        kept, total = kept + float((sizes[:2] ** 2).sum()), total + float((sizes**2).sum())
        left_out = (low[key] - tensor).norm()
        assert float(left_out) == pytest.approx(float((sizes[2:] ** 2).sum().sqrt()), rel=1e-4)
    assert few.energy == pytest.approx(kept / total, rel=1e-6)


def test_what_an_adapter_folder_cannot_hold(adapters, trio, tmp_path):
    base, (a, b, _) = adapters
    with pytest.raises(UsageError, match="does not fit"):
        combine(f"{a} + {b}", tmp_path / "sum", rank=0)
    with pytest.raises(UsageError, match="does not fit"):
        combine(f"{a} + {b}", tmp_path / "sum.safetensors", rank=4)
    with pytest.raises(UsageError, match="these are not adapters"):
        combine(f"{trio[1]} + {trio[2]}", tmp_path / "sum")
    biased = save_adapter(base, tmp_path / "biased", target_modules=TARGETS["llama"] + TARGETS["gpt2"], use_dora=True)
    with pytest.raises(UsageError, match="no factors of their own"):
        combine(f"{a} + {biased}", tmp_path / "sum")
    assert [path.name for path in tmp_path.iterdir()] == ["biased"]
