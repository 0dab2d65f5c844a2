"""Scales of float8 weights: found by name and shape, or refused with what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskarith.checkpoints.float8 import find_scalings
from taskarith.checkpoints.header import TensorEntry
from taskarith.errors import CheckpointError

WEIGHT = ("a.weight", "F8_E4M3", (4, 6))
FP8 = {"quantization_config": {"quant_method": "fp8"}}
BLOCKS = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 4]}}


def find(config, *tensors):
    return find_scalings(Path("m"), {one[0]: TensorEntry(*one, Path("m"), 0) for one in tensors}, config)


@pytest.mark.parametrize(
    ("config", "scale", "expected"),
    [
        (FP8, ("a.weight_scale", "F32", ()), (4, 6, 1, "F32")),
        (FP8, ("a.weight_scale", "BF16", (4, 1)), (1, 6, 1, "BF16")),
        (BLOCKS, ("a.weight_scale_inv", "F32", (2, 2)), (2, 4, 2, "F32")),
        (BLOCKS, ("a.weight_scale_inv", "F8_E8M0", (2, 2)), (2, 4, 2, "F8_E8M0")),
        (
            {"quantization_config": BLOCKS["quantization_config"] | {"scale_fmt": "ue8m0"}},
            ("a.weight_scale_inv", "F32", (2, 2)),
            (2, 4, 2, "F8_E8M0"),
        ),
        ({"text_config": FP8}, ("a.weight_scale", "F32", (1,)), (4, 6, 1, "F32")),
    ],
)
def test_a_scale_of_a_tensor_a_row_or_a_block_is_found(config, scale, expected):
    found = find(config, WEIGHT, scale)["a.weight"]
    assert found.scale.name == scale[0]
    assert (found.rows, found.columns, found.across, found.grid) == expected


@pytest.mark.parametrize(
    ("config", "tensors", "words"),
    [
        (FP8, [WEIGHT], "a.weight_scale_inv is not stored"),
        (FP8, [WEIGHT, ("a.scale", "F32", ())], "its scales are named a.scale"),
        (FP8, [WEIGHT, ("a.weight_scale", "I32", ())], "of dtype I32"),
        (FP8, [WEIGHT, ("a.weight_scale", "F32", (3, 1))], r"has the shape \[3, 1\]"),
        (BLOCKS, [WEIGHT, ("a.weight_scale_inv", "F32", (2, 3))], r"has the shape \[2, 3\]"),
        (FP8, [("a.weight", "BF16", (4, 6))], "all of its tensors are plain floats"),
        ({"quantization_config": {"quant_method": "gptq"}}, [WEIGHT, ("a.weight_scale", "F32", ())], r"\(gptq\)"),
        ({"quantization_config": "fp8"}, [WEIGHT, ("a.weight_scale", "F32", ())], r"\(unknown\)"),
        ({}, [WEIGHT, ("a.weight_scale", "F32", ())], "no quantization_config: a.weight"),
    ],
)
def test_scales_that_are_missing_or_do_not_fit_are_refused(config, tensors, words):
    with pytest.raises(CheckpointError, match=words):
        find(config, *tensors)


def test_a_plain_model_has_no_scales():
    assert find({}, ("a.weight", "BF16", (4, 6)), ("a.input_scale", "F32", ())) == {}
