"""The decoder layers of a model are found in every architecture, or the model is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from taskarith.errors import UsageError
from taskarith.training.hidden_states import capture, freeze_all_but, layer_names, steered_layer, with_layer
from taskarith.training.settings import TrainingSettings

RMU = TrainingSettings(objective="rmu", rmu_layer=1)


def _model(kind: str) -> Any:
    auto = AutoModelForImageTextToText if kind in tiny.WITH_PICTURES else AutoModelForCausalLM
    return auto.from_config(tiny.configuration(kind)).eval()


@pytest.mark.parametrize("kind", ["phi", "gpt2", "moe", "gpt_neox", "llama4_text", "gemma3"])
def test_states_are_those_that_the_model_itself_gives(kind):
    model = _model(kind)
    assert [name.rpartition(".")[2] for name in layer_names(model, RMU)] == ["0", "1"]
    ids = torch.arange(8)[None] + 100
    types = {"token_type_ids": torch.zeros_like(ids)} if kind == "gemma3" else {}
    layer = steered_layer(model, TrainingSettings(objective="rmu", rmu_layer=0))
    with capture(layer) as states:
        given = model(input_ids=ids, output_hidden_states=True, **types)
    assert torch.equal(states[0].detach(), given.hidden_states[1].detach())
    assert states[0].requires_grad
    assert not given.logits.requires_grad or model.get_output_embeddings().weight.requires_grad
    before = states[0]
    model(input_ids=ids, **types)
    assert states == [before]  # nothing is collected any more


def test_what_follows_the_layer_passes_no_gradient_back():
    model = _model("llama")
    freeze_all_but(model, layer_names(model, TrainingSettings(objective="rmu", rmu_layer=0)))
    moving = {name.rpartition(".")[0][:14] for name, one in model.named_parameters() if one.requires_grad}
    assert moving == {"model.layers.0"}
    with capture(steered_layer(model, TrainingSettings(objective="rmu", rmu_layer=0))) as states:
        outputs = model(input_ids=torch.arange(8)[None])
    assert states[0].requires_grad
    assert not outputs.logits.requires_grad


@pytest.mark.parametrize(("depth", "layer"), [(32, 7), (30, 7), (16, 4), (12, 3), (2, 0), (1, 0)])
def test_the_layer_follows_from_the_depth(depth, layer):
    config: Any = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=depth))
    assert with_layer(TrainingSettings(objective="rmu"), config, "base").rmu_layer == layer
    assert with_layer(TrainingSettings(objective="npo"), config, "base").rmu_layer is None
    with pytest.raises(UsageError, match=f"--rmu-layer {depth} is out of range"):
        with_layer(TrainingSettings(objective="rmu", rmu_layer=depth), config, "base")


def test_a_decoder_without_a_list_of_layers_is_refused():
    with pytest.raises(UsageError, match="cannot reach the hidden states of BartForCausalLM"):
        layer_names(_model("bart"), RMU)
    config: Any = SimpleNamespace(get_text_config=SimpleNamespace)
    with pytest.raises(UsageError, match="its config names no decoder layers"):
        with_layer(TrainingSettings(objective="rmu"), config, "base")
