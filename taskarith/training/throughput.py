"""Speed of a training: tokens a second, and the share of the device's peak that its arithmetic amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainingArguments

__all__ = ["Throughput", "describe_speed", "flops_per_token", "peak_flops", "peak_share"]

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")

_PEAKS = (
    ("B200", 2250e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("A40", 149.7e12),
    ("A10", 125e12),
    ("L40S", 362e12),
    ("L4", 121e12),
)
"""Dense bfloat16 operations a second, from NVIDIA's data sheets (which print twice as much, "with sparsity", for some);
of several names that a device's contains, the first counts."""


@dataclass(frozen=True)
class Throughput:
    """How fast a training is.

    :param tokens_per_second: Tokens of the data, without padding, of all processes; None before the first step.
    :param mfu: Model-flops utilisation: what ``flops_per_token`` needs, as a share of the devices' peak; None where
        either is not known.
    """

    tokens_per_second: float | None = None
    mfu: float | None = None


def describe_speed(throughput: Throughput) -> str:
    """Return it in words."""
    used = "" if throughput.mfu is None else f", {throughput.mfu:.0%} of the peak"
    return f"{throughput.tokens_per_second or 0:,.0f} tokens/s{used}"


def peak_flops(device: str) -> float | None:
    """Return the dense bfloat16 operations a second that a device can do at most, or None where that is not known.

    :param device: Its name as the driver has it, such as ``NVIDIA A100-SXM4-80GB``; a MIG slice is a part of one.
    """
    words = set(device.replace("-", " ").split())
    return None if "MIG" in words else next((peak for name, peak in _PEAKS if words.issuperset(name.split())), None)


def flops_per_token(model: Any, lengths: Sequence[int]) -> float | None:
    """Return the operations that training on a token takes; activations that are calculated again do not count.

    6 N + 12 L D T as in PaLM (Chowdhery et al. 2022, appendix B), for N weights in products, L layers, attention of
    width D and T tokens before and after each, the mean over tokens of their rows. Of the 6, 2 are for the gradients of
    weights, and only for trained ones.

    :param model: A language model, ready to train.
    :param lengths: Tokens of each row.
    :return: None where not all weights take part (experts), their number is not known (quantised or sharded ones), or
        the model does not have attention.
    """
    config = model.config.get_text_config()
    layers, heads = getattr(config, "num_hidden_layers", None), getattr(config, "num_attention_heads", None)
    if not isinstance(layers, int) or not isinstance(heads, int) or any(hasattr(config, name) for name in _EXPERTS):
        return None
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    looked_up -= {id(getattr(model.get_output_embeddings(), "weight", None))}  # a tied one is multiplied with, too
    weights = [weight for weight in model.parameters() if weight.dim() > 1 and id(weight) not in looked_up]
    if not all(weight.is_floating_point() and weight.numel() for weight in weights):
        return None
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    context = sum(length * length for length in lengths) / sum(lengths)
    return 4.0 * sum(weight.numel() for weight in weights) + 2.0 * trained + 12.0 * layers * width * context


def peak_share(model: Any, arguments: TrainingArguments, lengths: Sequence[int]) -> float | None:
    """Return the model-flops utilisation of one token a second, or None where it is not known.

    :param model: A language model, ready to train.
    :param arguments: Device, precision and number of processes.
    :param lengths: Tokens of each row.
    """
    if arguments.device.type != "cuda" or arguments.mixed_precision != "bf16":
        return None
    flops, peak = flops_per_token(model, lengths), peak_flops(torch.cuda.get_device_name(arguments.device))
    return None if flops is None or peak is None else flops / (peak * arguments.world_size)
