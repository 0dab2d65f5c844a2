"""Merges by other methods are verified by a sample of whole tensors."""

from __future__ import annotations

import numpy as np
import pytest

from taskarith.arithmetic.encoding import decode, encode
from taskarith.edit.apply import apply
from taskarith.inspection import verify_methods
from taskarith.inspection.verify import verify
from taskarith.inspection.verify_methods import TOLERANCE, _are_near
from taskarith.merging.methods import parse_method


def test_no_more_is_merged_again_than_a_sample(tmp_path, phi, phi_tuned, monkeypatch):
    tuned = f"{phi_tuned}@@{phi}"
    apply(str(phi), add=[tuned], method=parse_method("ties", density=0.5), output_dir=tmp_path / "out")
    whole = verify(tmp_path / "out").sampled
    monkeypatch.setattr(verify_methods, "_ELEMENTS", whole // 3)
    found = verify(tmp_path / "out")
    assert found.is_sound
    assert 0 < found.sampled <= whole // 3


@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16"])
def test_singular_values_are_compared_within_a_tolerance(dtype):
    base = np.linspace(-2, 2, 501)
    again = base + 0.01 * np.cos(base)
    reach = TOLERANCE * float(np.abs(again - base).max())
    rounded = decode(encode(again, dtype), dtype)
    assert _are_near(rounded, again, base, dtype)
    assert _are_near(decode(encode(again + reach / 2, dtype), dtype), again, base, dtype)
    assert not _are_near(decode(encode(base + 1.01 * (again - base), dtype), dtype), again, base, dtype)
    assert not _are_near(rounded + 0.02, again, base, dtype)
