"""What is read of a model is what its logits say."""

from __future__ import annotations

import tiny
import torch
from transformers import AutoModelForCausalLM

from taskarith.data.tokens import Sample
from taskarith.training.examples import Example
from taskarith.training.pairs import RowCollator
from taskarith.training.readings import read_rows, select


def test_readings_of_padded_rows_are_those_of_each_row_alone():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny.configuration("llama")).eval()
    rows = [
        (0, Example(Sample("a", (5, 6, 7, 8, 9), 2))),
        (0, Example(Sample("b", (9, 8, 7), 0), retained=True)),
    ]
    batch = RowCollator(0)([rows])
    layer = model.model.layers[0]
    with torch.no_grad():
        both = read_rows(model, batch, layer)
        for number, (_, example) in enumerate(rows):
            ids = torch.tensor([example.sample.input_ids])
            log_p = model(input_ids=ids).logits[0, :-1].log_softmax(1)
            start = max(example.sample.prompt_length, 1)
            chosen = torch.arange(2) == number
            one = both.of(chosen)
            assert one.learned[0].tolist() == [start <= place < ids.shape[1] for place in range(1, 5)]
            expected = log_p.gather(1, ids[0, 1:, None])[start - 1 :, 0]
            assert torch.allclose(one.log_p[0][one.learned[0]], expected, atol=1e-6)
            assert torch.allclose(one.compared("sequences"), expected.sum(), atol=1e-5)
            assert torch.allclose(one.compared("vocabulary")[one.learned], log_p[start - 1 :], atol=1e-5)
            assert torch.equal(one.compared("states"), both.states[chosen])
            assert torch.allclose(
                one.loss_and_count(),
                torch.stack([-expected.sum(), torch.tensor(float(len(expected)))]),
            )
            assert one.is_learned.tolist() == [True]
            alone = read_rows(model, select(batch, chosen), None)
            assert torch.allclose(alone.log_p, one.log_p, atol=1e-6)
