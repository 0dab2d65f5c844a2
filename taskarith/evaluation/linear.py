"""Products with few rows, as decoding makes them, by the library that is fastest at them on the processor at hand."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from taskarith.models.memory import available_memory

__all__ = ["fast_products"]

_CPUS = Path("/proc/cpuinfo")
_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight")
_ROOM = 4  # times the copied bytes that must be free
_STEPS = 32  # with which copying pays: with 16 it takes as long as it saves


@contextmanager
def fast_products(model: PreTrainedModel, steps: int) -> Generator[None]:
    """Let oneDNN calculate the linear layers of a float32 model on a CPU whose maker is not that of MKL.

    On an AMD EPYC, MKL takes up to twice as long for steps of 8 to 128 tokens. Results differ within rounding. Both are
    part of torch, which has no switch for it. Where memory is plentiful and steps are many, weights are copied in the
    order in which oneDNN reads them, which saves up to a quarter of its time; only products with a single row differ.

    :param model: Its layers are as before when the context ends; weights may not change until then.
    :param steps: About how often the weights will be read; copying takes as long as five to ten steps of few rows.
    """
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear and _is_slow(layer)]
    bytes_copied = sum(layer.weight.nbytes for layer in layers)
    copies = steps >= _STEPS and bytes_copied * _ROOM <= (available_memory(torch.device("cpu")) or 0)
    for layer in layers:
        weight = layer.weight.detach()
        ordered = torch.ops.mkldnn._reorder_linear_weight(weight) if copies else weight
        vars(layer)["forward"] = partial(_product, ordered, layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _is_slow(layer: nn.Linear) -> bool:
    return (
        _has_slow_mkl()
        and "forward" not in vars(layer)  # as hooks of accelerate replace it
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
    )


def _product(weight: torch.Tensor, bias: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
    """Return ``states @ weight.T + bias`` of shape (..., out), float32."""
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


@cache
def _has_slow_mkl() -> bool:
    if not _CPUS.is_file():
        return False
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    has_both = has_both and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
    return has_both and "AuthenticAMD" in _CPUS.read_text()
