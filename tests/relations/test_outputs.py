"""How much vectors change the outputs of a model, alone and together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracle
import pytest
import tiny
import torch
from safetensors.torch import load_file

from taskarith.relations.relate import relate


def test_outputs_of_a_vector_and_itself(room, texts):
    a = str(room / "a.safetensors")
    found = relate([a, a], data=texts, block_size=16, inputs=6)
    assert found.names == ("one", "two")
    assert found.outputs.inputs == (6, 6)
    for measure, values in found.outputs.correlations.items():
        assert values[0, 1].value == pytest.approx(1, abs=1e-5), measure
    (verdict,) = found.verdicts
    assert (verdict.regime, verdict.reason) == (
        "undecided",
        "the vector of one is not recorded as trained on its test set",
    )
    assert (found.outputs.losses[1] == found.outputs.losses[2]).all()
    assert (found.outputs.losses[0] != found.outputs.losses[1]).all()
    small = relate([f"{a}:0.05", f"{a}:-0.05"], data=texts, block_size=16, inputs=6)
    assert small.outputs.correlations["loss changes"][0, 1].value < -0.98
    assert small.outputs.correlations["output changes"][0, 1].value < -0.98
    assert small.outputs.correlations["outputs"][0, 1].value > 0.98
    assert small.verdicts[0].regime == "undecided"


def test_the_forecast_is_the_loss_of_that_model(room, phi, texts):
    a, b = (str(room / f"{name}.safetensors") for name in "ab")
    found = relate([a, b], data=texts, block_size=16, inputs=6).outputs
    one = next(each for each in found.removals if each.alpha == 0.5)
    assert one.task == "two"
    losses = {}
    for alpha in (0.0, 0.5):
        moved = oracle.load(phi)
        for vector, weight in ((a, -alpha), (b, one.known)):
            for name, delta in load_file(vector).items():
                moved[name] = moved[name] + (weight * delta).float()
        losses[alpha] = _mean_loss(phi, moved, texts["two"])
    assert one.rise.value == pytest.approx(losses[0.5] - losses[0.0], abs=1e-5)


def _mean_loss(phi, tensors, path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(phi, dtype=torch.float32)
    model.load_state_dict(tensors, strict=False)
    tokens = tiny.tokenizer()(Path(path).read_text(encoding="utf-8")).input_ids
    blocks = [tokens[start : start + 16] for start in range(0, len(tokens), 16)]
    blocks = [block for block in blocks if len(block) > 3]
    chosen = np.unique(np.linspace(0, len(blocks) - 1, 6).round().astype(int))
    with torch.inference_mode():
        inputs = [torch.tensor([blocks[index]]) for index in chosen]
        return np.mean([float(model(ids, labels=ids).loss) for ids in inputs])
