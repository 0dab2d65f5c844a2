"""How a model is loaded: in which dtype, on which device, and whether its own code may run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypedDict

__all__ = ["RUNTIME", "Runtime", "RuntimeKeywords", "take_runtime"]


@dataclass(frozen=True)
class Runtime:
    """How a model is loaded.

    :param dtype: Of the weights in memory: ``auto``, ``float32``, ``bfloat16`` or ``float16``. ``auto`` is the dtype of
        the files, on a CPU float32.
    :param device: ``auto``, ``cpu``, ``cuda[:N]`` or ``mps``.
    :param trust_remote_code: Run the code that comes with a model.
    """

    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False


RUNTIME = Runtime()


class RuntimeKeywords(TypedDict, total=False):
    """The fields of ``Runtime`` as keywords of a verb."""

    dtype: str
    device: str
    trust_remote_code: bool


def take_runtime(keywords: dict[str, Any], runtime: Runtime) -> Runtime:
    """Take the fields of ``Runtime`` out of the keywords of a verb, and return it with them."""
    given = {name: keywords.pop(name) for name in RuntimeKeywords.__optional_keys__ & keywords.keys()}
    return replace(runtime, **given)
