"""The weights of a checkpoint go into a model, or into the state that several processes gathered."""

from __future__ import annotations

import tiny
import torch
from transformers import AutoModelForCausalLM

from taskarith.training.trained import load_trained, save_trained


def test_a_gathered_state_gets_the_stored_weights_under_all_names_of_tied_ones(tmp_path):
    """Gathered tensors share no memory; what is frozen keeps its value."""
    model = AutoModelForCausalLM.from_pretrained(tiny.save_model(tmp_path / "base", "llama"))
    frozen = "model.norm.weight"
    model.get_parameter(frozen).requires_grad_(False)
    gathered = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    save_trained(model, tmp_path / "checkpoint", gathered)
    for name in gathered.keys() - {frozen}:
        gathered[name] = torch.zeros_like(gathered[name])
    load_trained(model, tmp_path / "checkpoint", gathered)
    assert {"lm_head.weight", "model.embed_tokens.weight", frozen} <= gathered.keys()
    assert all(torch.equal(tensor + 1, gathered[name]) for name, tensor in model.state_dict().items())
    load_trained(model, tmp_path / "checkpoint")
    assert torch.equal(model.get_parameter(frozen) + 1, gathered[frozen])
    assert all(torch.equal(tensor, gathered[name]) for name, tensor in model.named_parameters() if name != frozen)
