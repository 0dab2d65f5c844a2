"""The names of the dtypes that arithmetic is defined on: those of safetensors, and those of torch and the options."""

from __future__ import annotations

__all__ = ["MODEL_DTYPES", "TORCH_NAMES", "VECTOR_DTYPES"]

VECTOR_DTYPES = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""safetensors' name of each, by torch's; in the order in which messages list them."""

MODEL_DTYPES = tuple(name for name in VECTOR_DTYPES if name != "float64")
"""torch's names of those that models are trained and measured in."""

TORCH_NAMES = {code: name for name, code in VECTOR_DTYPES.items()}
"""torch's name of each, by safetensors'."""
