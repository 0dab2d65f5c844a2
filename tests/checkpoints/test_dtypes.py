"""Names of dtypes: safetensors' and torch's mean the same."""

from __future__ import annotations

import torch
from safetensors.torch import _TYPES

from taskarith.checkpoints.dtypes import TORCH_NAMES, VECTOR_DTYPES
from taskarith.checkpoints.header import FLOAT_DTYPES


def test_both_names_mean_one_dtype_of_those_that_arithmetic_is_defined_on():
    assert {*VECTOR_DTYPES.values()} == {*FLOAT_DTYPES}
    assert all(_TYPES[code] == getattr(torch, name) for name, code in VECTOR_DTYPES.items())
    assert {VECTOR_DTYPES[name]: name for name in VECTOR_DTYPES} == TORCH_NAMES
