"""Quantised weights: levels and rounding by hand, and weights that come back to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from attacking import bits_of, same_bits
from scipy.stats import norm
from transformers import AutoModelForCausalLM

from taskarith.attacks.quantise import (
    NF4_LEVELS,
    Rounding,
    preserved,
    quantised,
    round_in_groups,
    round_to_bits,
    round_to_nf4,
)
from taskarith.errors import CheckpointError


def test_rounding_by_hand():
    weight = torch.tensor([[3.5, -7.0, 1.75], [0.0, 0.0, 0.0], [127.0, -3.4, 63.5]])
    four = round_to_bits(weight, 4)
    assert four[0].tolist() == [4.0, -7.0, 2.0]  # 3.5 steps go to the even 4
    assert four[1].tolist() == [0.0, 0.0, 0.0]
    assert round_to_bits(weight, 8)[2].tolist() == [127.0, -3.0, 64.0]
    down = round_to_bits(weight, 2, axis=0)  # a channel is a column: levels -1, 0, 1 times 127, 7, 63.5
    assert down.T.flatten().tolist() == pytest.approx([0, 0, 127, -7, 0, 0, 0, 0, 63.5])


def test_nf4_levels_are_quantiles_of_the_normal_distribution():
    """Appendix E of QLoRA: 8 levels below 0, 9 from 0 on, means of neighbouring quantiles, of largest magnitude 1."""
    end = (1 - 1 / 32 + 1 - 1 / 30) / 2
    above, below = norm.ppf(np.linspace(0.5, end, 9)), -norm.ppf(np.linspace(0.5, end, 8))[:0:-1]
    assert pytest.approx(np.r_[below, above] / norm.ppf(end), abs=2e-7) == NF4_LEVELS


def test_nf4_is_what_bitsandbytes_makes():
    """Codes of bitsandbytes' quantize_4bit (95f9af30, CPU) on the same weights, two in a byte; 22 of a last block."""
    n = torch.arange(150)
    weight = (((n * 37) % 101 - 50).float() * (1 + (n % 7).float() / 4) / 64).reshape(5, 30)
    codes = (
        "36b26d18c4a15d47c39f3936c28e59d5b16a48d3b06a27d29b5a16d17c49e4c36c28e3925b17e48d4b05a37d3af6a26d18b4915c17b3"
        "8e3b36b27e28c5a16d47d3af4a36d28f5915c17b48"
    )
    scales = torch.tensor([1.875, 1.875, 1.7578125]).repeat_interleave(64)[:150]
    wanted = torch.tensor([NF4_LEVELS[int(code, 16)] for code in codes]) * scales
    assert torch.equal(round_to_nf4(weight).flatten(), wanted)
    assert not round_to_nf4(torch.zeros(3, 5)).any()


def test_groups_by_hand():
    weight = torch.tensor([[0.0, 15.0, 7.4, 1.0, -3.0], [2.0, 6.5, 2.5, -0.5, -7.5]])
    four = round_in_groups(weight, 4, 4)  # steps of 1 from 0; of 14 / 15 from -7.5: the zero point is 1, not 0.53
    assert four[0].tolist() == pytest.approx([0, 15, 7, 1, -3.0])
    step = 7 / 15
    assert four[1, :4].tolist() == pytest.approx([4 * step, 14 * step, 5 * step, -1 * step])
    assert four[1, 4].item() == pytest.approx(-7.5)  # a group of its own
    assert round_in_groups(torch.zeros(2, 3), 4, 128).tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(("how", "error"), [("nf4", 0.1), ("4g32", 0.085), ("4g128", 0.11), ("4", 0.16)])
def test_smaller_groups_lose_less(how, error):
    weight = torch.randn(64, 1024, generator=torch.Generator().manual_seed(1))
    rounding = Rounding.parse(how)
    lost = float((rounding(weight) - weight).norm() / weight.norm())
    assert error * 0.8 < lost < error
    assert torch.equal(rounding(weight.T, axis=0), rounding(weight).T)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_quantised_linear_layers_and_nothing_else(tmp_path, kind):
    model = AutoModelForCausalLM.from_pretrained(tiny.save_model(tmp_path / "m", kind, seed=4))
    before, weights = bits_of(model), {name: values.detach().clone() for name, values in model.named_parameters()}
    with quantised(model, 4) as (count, share):
        changed = {name for name, values in model.named_parameters() if not torch.equal(values, weights[name])}
        for name in changed:
            axis = 0 if kind == "gpt2" else -1
            now = dict(model.named_parameters())[name]
            levels = now / (weights[name].abs().amax(axis, keepdim=True) / 7)
            assert torch.allclose(levels, levels.round(), atol=1e-4)
            assert levels.abs().max() < 7.01
        elements = sum(weights[name].numel() for name in changed)
    assert same_bits(bits_of(model), before)
    matrices = {name for name in weights if weights[name].dim() > 1}
    kept = {name for name in matrices if "embed" in name or "lm_head" in name or ".wte." in name or ".wpe." in name}
    # routers of experts are parameters of their own, no linear layers: they stay, as the usual quantisers leave them
    kept |= {name for name in matrices if name.endswith("mlp.gate.weight")}
    assert changed == matrices - kept
    assert count == len(changed)
    assert share == pytest.approx(elements / sum(values.numel() for values in weights.values()))


def wreck(model):
    with preserved(model):
        for parameter in model.parameters():
            parameter.data.zero_()
        raise ZeroDivisionError


def test_weights_come_back_after_a_failure(phi):
    model = AutoModelForCausalLM.from_pretrained(phi)
    before = bits_of(model)
    with pytest.raises(ZeroDivisionError):
        wreck(model)
    assert same_bits(bits_of(model), before)


def test_what_cannot_be_quantised_is_named(phi):
    model = AutoModelForCausalLM.from_pretrained(phi)
    model.model.layers[1].mlp.fc1.weight.data[0, 0] = math.nan
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.fc1\.weight"), quantised(model, 8):
        pass
