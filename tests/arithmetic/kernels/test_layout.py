"""What kernels and callers agree on: also those callers that must not import the kernels."""

from __future__ import annotations

from taskarith.arithmetic import ulp_codec
from taskarith.arithmetic.kernels import rounding
from taskarith.arithmetic.kernels.layout import BLOCK, DTYPE_CODES
from taskarith.checkpoints.header import ITEM_SIZES
from taskarith.merging import masks


def test_kernels_know_each_dtype_by_its_code_and_width():
    assert sorted(DTYPE_CODES.values()) == list(range(len(DTYPE_CODES)))
    assert {name: getattr(rounding, name) for name in DTYPE_CODES} == DTYPE_CODES
    assert {name: rounding.width(code) for name, code in DTYPE_CODES.items()} == {
        name: ITEM_SIZES[name] for name in DTYPE_CODES
    }


def test_files_and_masks_have_runs_of_a_block():
    assert ulp_codec.RUN == masks._BLOCK == BLOCK == 512  # vectors and edits that exist depend on it
