"""Pieces of a patch: differences of bits that give the bits back."""

from __future__ import annotations

import numpy as np
import torch
from damage import files
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from taskarith.edit.apply import apply
from taskarith.edit.undo import undo
from taskarith.edit.undo_pieces import planes, unplanes


def test_values_of_every_kind_come_back(tmp_path):
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    for folder, shift in ((base, 0.0), (tuned, 0.25)):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        generator = torch.Generator().manual_seed(0)
        values = {
            "half": torch.randn(3, 5, generator=generator).half() + shift,
            "double": torch.randn(7, generator=generator, dtype=torch.float64) + shift,
            "zeros": torch.tensor([-0.0, 0.0, 1e-40, -1e-40]) + 0 * shift,
            "scalar": torch.tensor(2.0 + shift),
            "empty": torch.empty(0, 4),
            "integers": torch.arange(9),
        }
        save_file(values, folder / "model.safetensors")
    before = files(base)
    apply(str(base), add=[f"{tuned}@@{base}"], dtype="bfloat16", output_dir=tmp_path / "out", keep_undo=True)
    undo(tmp_path / "out", tmp_path / "back")
    assert files(tmp_path / "back") == before


def test_small_differences_of_either_sign_have_small_bytes_that_lie_together():
    differences = np.array([0, 1, -1, 300], np.int16).view(np.uint16)
    # folded: 0, 2, 1, 600 = 2 * 256 + 88; all low bytes, then all high ones
    assert planes(differences) == bytes([0, 2, 1, 88, 0, 0, 0, 2])


@given(st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64]), st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_any_differences_come_back(dtype, numbers):
    differences = np.array(numbers, np.uint64).astype(dtype)
    found = unplanes(planes(differences), differences.dtype)
    assert found.dtype == differences.dtype
    assert (found == differences).all()
