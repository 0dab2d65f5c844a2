"""Operations of a token by another count, and devices by their names."""

from __future__ import annotations

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from taskarith.training.throughput import Throughput, describe_speed, flops_per_token, peak_flops

LENGTH = 24


def counted(model: torch.nn.Module) -> float:
    """Count the operations of a training step by what torch runs; eager attention is products that it sees."""
    ids = torch.arange(2 * LENGTH).reshape(2, LENGTH)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return counter.get_total_flops() / ids.numel()


@pytest.mark.parametrize("kind", ["phi", "llama", "qwen2", "gpt2"])
def test_operations_are_those_that_torch_counts(kind):
    config = tiny.configuration(kind)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config)
    assert flops_per_token(model, [LENGTH, LENGTH]) == pytest.approx(counted(model), rel=0.02)
    names = ["c_attn"] if kind == "gpt2" else ["q_proj"]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=names, fan_in_fan_out=kind == "gpt2"))
    found = flops_per_token(adapted, [LENGTH])
    assert found is not None
    assert 1 <= found / counted(adapted) < 1.15  # below the first adapter, gradients of activations are not needed


def test_long_rows_take_more_attention_and_a_mixture_of_experts_is_not_guessed():
    model = AutoModelForCausalLM.from_config(tiny.configuration("phi"))
    found = [flops_per_token(model, lengths) for lengths in ([10, 10], [15, 5], [100])]
    assert found == pytest.approx([found[0], found[0] + 12 * 2 * 32 * 2.5, found[0] + 12 * 2 * 32 * 90])
    assert flops_per_token(AutoModelForCausalLM.from_config(tiny.configuration("moe")), [10]) is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", None),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", None),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_peaks_are_those_of_the_device_and_unknown_ones_are_not_guessed(name, peak):
    assert peak_flops(name) == peak


def test_the_share_of_the_peak_is_said_where_it_is_known():
    assert describe_speed(Throughput(1234.5)) == "1,234 tokens/s"
    assert describe_speed(Throughput(1234.5, 0.412)) == "1,234 tokens/s, 41% of the peak"
