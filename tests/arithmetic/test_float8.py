"""Float8 (E4M3): every byte, and rounding to nearest even, as torch has them."""

from __future__ import annotations

import numpy as np
import torch

from taskarith.arithmetic.float8 import VALUES, to_float8


def test_every_byte_and_rounding_as_torch_has_them():
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    expected = codes.view(torch.float8_e4m3fn).double().numpy()
    np.testing.assert_array_equal(VALUES, expected)
    finite = ~np.isnan(VALUES)
    assert (to_float8(VALUES[finite]) == codes.numpy()[finite]).all()
    positive = VALUES[:127]
    middle = (positive[:-1] + positive[1:]) / 2
    assert (to_float8(middle) % 2 == 0).all()
    assert (to_float8(np.nextafter(middle, 1e9)) == np.arange(1, 127)).all()
    assert (to_float8(-np.nextafter(middle, 0)) == np.arange(126) + 128).all()
    assert to_float8(np.array([1e9, -449.0, -0.0])).tolist() == [126, 254, 128]
