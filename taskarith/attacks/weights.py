"""Weights changed for the length of an attack: rounded to a few bits, and afterwards what they were, bit for bit."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from taskarith.errors import CheckpointError

__all__ = ["preserved", "quantised", "round_to_bits"]


@contextmanager
def preserved(model: PreTrainedModel) -> Generator[None]:
    """Put every parameter back at the end, bit for bit, from a copy in the computer's memory."""
    saved = {name: parameter.detach().to("cpu", copy=True) for name, parameter in model.named_parameters()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(saved[name])


@contextmanager
def quantised(model: PreTrainedModel, bits: int) -> Generator[tuple[int, float]]:
    """Round the weights of linear layers to a few bits; put them back at the end.

    Convention: that of the usual quantisers of language models. All linear layers but the output layer, and the
    matrices of experts; embeddings, the output layer (tied or not), norms and biases stay. The rounded weights are kept
    in the model's own dtype, as weight-only quantisation computes with them: no package for it is needed.

    :param bits: 2 to 8.
    :return: How many tensors were rounded, and their share of all parameters.
    :raises CheckpointError: The model has no linear layer, or weights that are not finite.
    """
    with preserved(model):
        done, elements = 0, 0
        with torch.no_grad():
            for name, weight, axis in _matrices(model):
                if not bool(torch.isfinite(weight).all()):
                    raise CheckpointError(f"{name} has values that are not finite", "Check the model: diff, inspect.")
                weight.copy_(round_to_bits(weight, bits, axis))
                done, elements = done + 1, elements + weight.numel()
        if not done:
            raise CheckpointError("the model has no linear layers to quantise", "Leave quantise out of --attacks.")
        yield done, elements / sum(parameter.numel() for parameter in model.parameters())


def round_to_bits(weight: torch.Tensor, bits: int, axis: int = -1) -> torch.Tensor:
    """Return weights rounded to ``bits`` bits and back: symmetric, one scale an output channel, its absmax.

    ``q = round(w / s)``, ``s = absmax / (2**(bits - 1) - 1)``, result ``q * s``; nearest, ties to even, in float32.

    :param weight: Any shape; a channel is what is left of it along ``axis``.
    :param bits: 2 to 8.
    :param axis: The inputs, over which the largest magnitude is taken.
    """
    values, highest = weight.float(), 2 ** (bits - 1) - 1
    scale = values.abs().amax(axis, keepdim=True) / highest
    levels = (values / scale.clamp(min=torch.finfo(torch.float32).tiny)).round_().clamp_(-highest, highest)
    return (levels * scale).to(weight.dtype)


def _matrices(model: PreTrainedModel) -> Generator[tuple[str, torch.Tensor, int]]:
    """Give name, tensor and axis of the inputs of each weight that is quantised."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    kept = {id(module.weight) for module in (head, embeddings) if module is not None}
    linear = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            linear[f"{name}.weight"] = 0 if isinstance(module, Conv1D) else -1
    for name, parameter in model.named_parameters():
        if id(parameter) in kept:
            continue
        if name in linear:
            yield name, parameter, linear[name]
        elif parameter.dim() == 3:  # experts, stacked: their last axis holds the inputs in nearly all architectures
            yield name, parameter, -1
