"""The names of the dtypes that arithmetic is defined on: those of safetensors, and those of torch and the options."""

from __future__ import annotations

from collections.abc import Collection

from taskarith.errors import UsageError

__all__ = ["MODEL_DTYPES", "TORCH_NAMES", "VECTOR_DTYPES", "dtype_name"]

VECTOR_DTYPES = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""safetensors' name of each, by torch's; in the order in which messages list them."""

MODEL_DTYPES = tuple(name for name in VECTOR_DTYPES if name != "float64")
"""torch's names of those that models are trained and measured in."""

TORCH_NAMES = {code: name for name, code in VECTOR_DTYPES.items()}
"""torch's name of each, by safetensors'."""

_SHORT = {
    "bf16": "bfloat16",
    **dict.fromkeys(("fp16", "f16", "half"), "float16"),
    **dict.fromkeys(("fp32", "f32", "float"), "float32"),
    **dict.fromkeys(("fp64", "f64", "double"), "float64"),
}


def dtype_name(text: object, known: Collection[str] = VECTOR_DTYPES) -> str:
    """Return torch's name of a dtype, however it is written: ``bf16``, ``BFloat16``, ``torch.bfloat16``.

    :param text: What the user wrote, or a dtype of torch.
    :param known: The names that may come out.
    :raises UsageError: It is none of them.
    """
    name = str(text).lower().removeprefix("torch.")
    name = _SHORT.get(name, name)
    if name not in known:
        raise UsageError(f"unknown dtype '{text}'", f"Choose one of {', '.join(known)}.")
    return name
