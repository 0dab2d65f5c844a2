"""Settings for loading a model: dtype, device, and whether its own code may run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypedDict

from taskarith.checkpoints.dtypes import MODEL_DTYPES, dtype_name

__all__ = ["RUNTIME", "Runtime", "RuntimeKeywords", "take_runtime"]


@dataclass(frozen=True)
class Runtime:
    """Settings for loading a model.

    :param dtype: Dtype of the weights in memory: ``auto``, ``float32``, ``bfloat16`` or ``float16``. ``auto`` is the
        dtype of the files, or float32 on a CPU. ``bf16`` and the like are understood.
    :param device: ``auto``, ``cpu``, ``cuda[:N]`` or ``mps``.
    :param trust_remote_code: Run Python code that comes with a model.
    :param device_map: How transformers spreads a model over all GPUs: ``auto``, ``balanced``, ``balanced_low_0`` or
        ``sequential``; None loads it to ``device``.
    """

    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    device_map: str | None = None

    def record(self, device: object) -> dict[str, Any]:
        """Return what ``taskarith.json`` tells of it; a device map only if used, to match older records.

        :param device: The device that was chosen.
        """
        chosen = {"dtype": self.dtype, "device": str(device)}
        return chosen | ({"device_map": self.device_map} if self.device_map else {})

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", dtype_name(self.dtype, ("auto", *MODEL_DTYPES)))


RUNTIME = Runtime()


class RuntimeKeywords(TypedDict, total=False):
    """The fields of ``Runtime`` as keywords of a verb."""

    dtype: str
    device: str
    trust_remote_code: bool
    device_map: str | None


def take_runtime(keywords: dict[str, Any], runtime: Runtime) -> Runtime:
    """Remove the fields of ``Runtime`` from a verb's keywords, and return the updated value."""
    given = {name: keywords.pop(name) for name in RuntimeKeywords.__optional_keys__ & keywords.keys()}
    return replace(runtime, **given)
