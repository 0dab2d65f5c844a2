"""Relearning is AdamW on the mean loss, and does not depend on where one looks."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from attacking import bits_of, opened, same_bits, samples_of
from transformers import AutoModelForCausalLM

from taskarith.attacks import relearn
from taskarith.attacks.relearn import choose_samples, relearned
from taskarith.errors import DataError, TaskarithError


def test_the_attacker_gets_some_samples_and_the_rest_is_held_out(forget):
    samples = samples_of(forget)
    chosen = choose_samples(samples, 3, 7, "forget.txt")
    assert len({sample.id for sample in chosen}) == 3
    assert chosen == choose_samples(samples, 3, 7, "forget.txt")
    assert any(chosen != choose_samples(samples, 3, seed, "forget.txt") for seed in range(5))
    with pytest.raises(DataError, match=rf"forget.txt has {len(samples)} samples, too few"):
        choose_samples(samples, len(samples), 7, "forget.txt")


@pytest.mark.parametrize("kind", ["phi", "llama"])
def test_one_step_of_relearning_is_adamw_on_the_mean_loss(tmp_path, forget, kind, monkeypatch):
    monkeypatch.setattr(relearn, "autocast_choice", lambda *_: (False, ""))  # some CPUs are fast in bfloat16
    folder = tiny.save_model(tmp_path / "m", kind)
    loaded, sample, rate = opened(folder), samples_of(forget)[0], 1e-2
    before = bits_of(loaded.model)
    expected = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([sample.input_ids])
    logits = expected(input_ids=ids).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, ids[0, 1:]).backward()
    torch.nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
    torch.optim.AdamW(expected.parameters(), lr=rate, weight_decay=0.0).step()
    checked = 0
    for step in relearned(loaded, [sample], [1], rate, 0):
        assert step == 1
        assert not loaded.model.training
        for name, values in loaded.model.named_parameters():
            other = expected.get_parameter(name)
            known = other.grad.abs() > 1e-5  # Adam takes rounding for a direction, also where one processor has zero
            checked += int(known.sum())
            assert torch.allclose(values[known], other[known], atol=1e-5), name
            assert (values - other).abs().max() <= 2.01 * rate, name
    assert checked > 0.1 * loaded.model.num_parameters()
    assert same_bits(bits_of(loaded.model), before)


def test_relearning_does_not_depend_on_where_one_looks(phi, forget):
    samples = samples_of(forget)[:6]  # more than a batch, so that the order matters

    def at_three(steps, seed):
        loaded = opened(phi)
        found = [bits_of(loaded.model) for _ in relearned(loaded, samples, steps, 1e-3, seed)]
        return found[-1]

    assert same_bits(at_three([1, 2, 3], 5), at_three([3], 5))
    assert not same_bits(at_three([3], 5), at_three([3], 6))


def test_relearning_that_diverges_is_told(phi, forget):
    loaded = opened(phi)
    before = bits_of(loaded.model)
    loaded.model.lm_head.bias.data[3] = math.inf
    with pytest.raises(TaskarithError, match="relearning diverged"):
        list(relearned(loaded, samples_of(forget)[:1], [2], 1e-3, 0))
    loaded.model.lm_head.bias.data[3] = opened(phi).model.lm_head.bias.data[3]
    assert same_bits(bits_of(loaded.model), before)
