"""The model of a training: what is trained of it, loaded or empty."""

from __future__ import annotations

import pytest
import torch
from finetuning import Notes

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.models.load import empty_model, load_model
from taskarith.training.model import trainable
from taskarith.training.saving import find_places
from taskarith.training.settings import TrainingSettings


@pytest.mark.parametrize("options", [{}, {"lora": True}, {"objective": "rmu", "rmu_layer": 1}], ids=str)
def test_an_empty_model_trains_the_same_weights(options, phi):
    settings, found = TrainingSettings(**options), []
    for make in (load_model, empty_model):
        model, notes = make(phi, torch.float32), Notes()
        places = find_places(model, open_checkpoint(phi))
        trained = trainable(model, settings, places, notes)
        shapes = {name: (tuple(w.shape), w.dtype, w.requires_grad) for name, w in trained.named_parameters()}
        found.append((shapes, notes.notes))
    assert found[0] == found[1]
    assert any(is_trained for _, _, is_trained in found[0][0].values())
    assert all(weight.is_meta for weight in empty_model(phi, torch.float32).parameters())
