"""The rows of a sweep: one model that is edited in memory, and given back as it was."""

from __future__ import annotations

import torch
from sweeping import LOSSES

from taskarith.evaluation import models
from taskarith.sweeps.sweep import sweep


def test_the_model_is_as_it_was_bit_for_bit(lab, monkeypatch):
    seen = []

    def spy(*arguments, **options):
        model = load_model(*arguments, **options)
        seen.append((model, {name: one.clone() for name, one in model.state_dict().items()}))
        return model

    load_model = models.load_model
    monkeypatch.setattr(models, "load_model", spy)
    edit = {"negate": [lab["forget"]], "add": [lab["retain"]], "target": 5.0}
    sweep(lab["tuned"], lab["data"], **edit, alphas=[0.3, 1.7], **LOSSES)
    sweep(lab["tuned"], lab["data"], **edit, gradient=2, kl=0.5, **LOSSES)
    assert len(seen) == 2  # loaded once each
    for model, before in seen:
        for name, values in model.state_dict().items():
            assert torch.equal(values.cpu().view(torch.uint8), before[name].view(torch.uint8)), name
