"""Merging LoRA adapters in their Core Space: nothing is lost, in numbers and in whole edits."""

from __future__ import annotations

import numpy as np
import pytest
from adapters import save_adapter
from merging import method

from taskarith.arithmetic.calculator import LowRank
from taskarith.edit.apply import apply
from taskarith.errors import UsageError
from taskarith.merging import core_space as core
from taskarith.merging.sums import elect


def factors(generator, rank=2, scale=0.5, rows=7, columns=9) -> LowRank:
    return LowRank(generator.standard_normal((rows, rank)), generator.standard_normal((rank, columns)), scale)


def test_core_space_loses_nothing():
    generator = np.random.default_rng(1)
    several = [factors(generator, rank) for rank in (2, 3)]
    left, cores, right = core.core_matrices(several)
    for one, small in zip(several, cores, strict=True):
        assert np.allclose(left @ small @ right, one.left @ one.right * one.scale, atol=1e-13)
    assert cores[0].shape == (5, 5)
    merged = core.core_space(several, [0.5, 2.0], 1.0, 1.0)
    expected = elect([0.5 * cores[0].ravel(), 2.0 * cores[1].ravel()], [0.5, 2.0], 1.0, None).reshape(5, 5)
    assert np.allclose(merged.left @ merged.right, left @ expected @ right, atol=1e-12)
    alone = core.core_space(several[:1], [3.0], 1.0, 1.0)
    assert np.allclose(alone.left @ alone.right, 1.5 * several[0].left @ several[0].right, atol=1e-12)


def test_core_space_of_adapters(tmp_path, phi, phi_tuned):
    adapters = [str(save_adapter(phi, tmp_path / f"a{seed}", seed=seed)) for seed in (1, 2)]
    how = method("core_space", 1.0)
    one = {"add": [f"{adapters[0]}:0.6"], "dtype": "float64"}
    expected = apply(str(phi), **one, output_dir=tmp_path / "linear").fingerprint
    assert apply(str(phi), **one, output_dir=tmp_path / "core", method=how).fingerprint == expected
    both = {"dtype": "float64", "method": method("core_space", 0.5)}
    first = apply(str(phi), add=adapters, output_dir=tmp_path / "ab", **both).fingerprint
    assert apply(str(phi), add=adapters[::-1], output_dir=tmp_path / "ba", **both).fingerprint == first != expected
    with pytest.raises(UsageError, match="LoRA"):
        apply(str(phi), add=[adapters[0], str(phi_tuned)], output_dir=tmp_path / "no", method=how)
