"""Temporary quantisation of weights for an attack; afterwards they are restored bit for bit."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from taskarith.errors import CheckpointError, UsageError

__all__ = ["NF4_LEVELS", "Rounding", "preserved", "quantised", "round_in_groups", "round_to_bits", "round_to_nf4"]

NF4_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The values of 4-bit NormalFloat: QLoRA, arXiv:2305.14314, appendix E."""

_NF4_BLOCK = 64
_WRITTEN = re.compile(r"(?:int)?(?P<bits>[2-8])(?:g(?P<group>[1-9][0-9]{0,4}))?")


@dataclass(frozen=True)
class Rounding:
    """A quantisation format: ``int8``, ``int4`` (one scale per output channel), ``int4g128`` (groups) or ``nf4``.

    :param bits: 2 to 8.
    :param group: Weights that share a scale; None for a whole output channel.
    :param normal: Use the levels of NormalFloat.
    """

    bits: int
    group: int | None = None
    normal: bool = False

    @classmethod
    def parse(cls, text: str | int) -> Self:
        """Read ``8``, ``4``, ``4g128`` or ``nf4``; ``int`` may precede a number.

        :raises UsageError: The format is unknown.
        """
        if text == "nf4":
            return cls(4, _NF4_BLOCK, normal=True)
        match = _WRITTEN.fullmatch(str(text))
        if match is None:
            raise UsageError(
                f"--bits {text} cannot be used",
                "Give bits from 2 to 8, such as 4, bits and a group size, such as 4g128, or nf4.",
            )
        return cls(int(match["bits"]), int(match["group"]) if match["group"] else None)

    @property
    def name(self) -> str:
        """Its name in results."""
        return "nf4" if self.normal else f"int{self.bits}" + (f"g{self.group}" if self.group else "")

    def __call__(self, weight: torch.Tensor, axis: int = -1) -> torch.Tensor:
        """Return quantised and dequantised weights.

        :param weight: Any shape.
        :param axis: The axis of the inputs.
        """
        if self.normal:
            return round_to_nf4(weight.movedim(axis, -1)).movedim(-1, axis)
        if self.group is None:
            return round_to_bits(weight, self.bits, axis)
        return round_in_groups(weight.movedim(axis, -1), self.bits, self.group).movedim(-1, axis)


@contextmanager
def preserved(model: PreTrainedModel) -> Generator[None]:
    """Restore every parameter bit for bit at the end, from a copy in CPU memory."""
    saved = {name: parameter.detach().to("cpu", copy=True) for name, parameter in model.named_parameters()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(saved[name])


@contextmanager
def quantised(model: PreTrainedModel, rounding: Rounding | int) -> Generator[tuple[int, float]]:
    """Quantise the weights of linear layers inside the block; restore them at the end.

    Convention: as usual for language models, all linear layers except the output layer, and the matrices of experts;
    embeddings, the output layer (tied or not), norms and biases keep their values. Quantised weights are stored in the
    model's dtype, with which weight-only quantisation computes, so no quantisation package is needed.

    :param rounding: The format; a number of bits means one scale per output channel.
    :return: The number of quantised tensors, and their share of all parameters.
    :raises CheckpointError: The model has no linear layers, or weights that are not finite.
    """
    quantise = Rounding(rounding) if isinstance(rounding, int) else rounding
    with preserved(model):
        done, elements = 0, 0
        with torch.no_grad():
            for name, weight, axis in _matrices(model):
                if not bool(torch.isfinite(weight).all()):
                    raise CheckpointError(
                        f"{name} has values that are not finite", "Check the model with taskarith inspect."
                    )
                weight.copy_(quantise(weight, axis))
                done, elements = done + 1, elements + weight.numel()
        if not done:
            raise CheckpointError("the model has no linear layers to quantise", "Remove quantise from --attacks.")
        yield done, elements / sum(parameter.numel() for parameter in model.parameters())


def round_to_bits(weight: torch.Tensor, bits: int, axis: int = -1) -> torch.Tensor:
    """Quantise and dequantise weights: symmetric, with one absmax scale per output channel.

    ``q = round(w / s)``, ``s = absmax / (2**(bits - 1) - 1)``, result ``q * s``; nearest, ties to even, in float32.

    :param weight: Any shape; channels are its slices along ``axis``.
    :param bits: 2 to 8.
    :param axis: The axis of the inputs, over which the absmax is taken.
    """
    values, highest = weight.float(), 2 ** (bits - 1) - 1
    scale = values.abs().amax(axis, keepdim=True) / highest
    levels = (values / scale.clamp(min=torch.finfo(torch.float32).tiny)).round_().clamp_(-highest, highest)
    return (levels * scale).to(weight.dtype)


def round_in_groups(weight: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Quantise and dequantise weights: asymmetric, with a scale and a zero point per group of inputs.

    ``s = (max(w, 0) - min(w, 0)) / (2**bits - 1)``, ``z = round(-min(w, 0) / s)``, ``q = clamp(round(w / s) + z, 0,
    2**bits - 1)``, result ``(q - z) * s``, in float32: as GPTQ (arXiv:2210.17323) and AWQ (arXiv:2306.00978) do.

    :param weight: Shape (..., inputs); the last group of a channel may be shorter.
    :param bits: 2 to 8.
    :param group: Inputs per group.
    """
    inputs, highest = weight.shape[-1], 2**bits - 1
    padded = torch.nn.functional.pad(
        weight.float(), (0, -inputs % group)
    )  # zeros do not change max(w, 0) and min(w, 0)
    values = padded.unflatten(-1, (-1, group))
    low, high = values.amin(-1, keepdim=True).clamp(max=0), values.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / highest).clamp(min=torch.finfo(torch.float32).tiny)
    zero = (-low / scale).round_()
    levels = (values / scale).round_().add_(zero).clamp_(0, highest)
    return ((levels - zero) * scale).flatten(-2)[..., :inputs].to(weight.dtype)


def round_to_nf4(weight: torch.Tensor) -> torch.Tensor:
    """Quantise and dequantise weights to 4-bit NormalFloat: the nearest of 16 levels times the absmax of 64 weights.

    As in bitsandbytes (without double quantisation), blocks run over the weights in memory order, across rows unless
    their length is a multiple of 64. In float32.

    :param weight: Shape (..., outputs, inputs); the last block may be shorter.
    """
    flat = weight.float().reshape(-1)
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % _NF4_BLOCK)).view(-1, _NF4_BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    levels = torch.tensor(NF4_LEVELS, device=weight.device)
    nearest = torch.bucketize(blocks / scale.clamp(min=torch.finfo(torch.float32).tiny), (levels[1:] + levels[:-1]) / 2)
    return (levels[nearest] * scale).view(-1)[: flat.numel()].view(weight.shape).to(weight.dtype)


def _matrices(model: PreTrainedModel) -> Generator[tuple[str, torch.Tensor, int]]:
    """Yield name, tensor and input axis of each weight to quantise."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    excluded = {id(module.weight) for module in (head, embeddings) if module is not None}
    linear = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            linear[f"{name}.weight"] = 0 if isinstance(module, Conv1D) else -1
    for name, parameter in model.named_parameters():
        if id(parameter) in excluded:
            continue
        if name in linear:
            yield name, parameter, linear[name]
        elif parameter.dim() == 3:  # stacked experts, whose last axis is the inputs in nearly all architectures
            yield name, parameter, -1
