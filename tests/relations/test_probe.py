"""What models answer on test inputs: which inputs are taken, and losses against transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from taskarith.errors import DataError
from taskarith.evaluation.models import open_model
from taskarith.progress import SILENT
from taskarith.relations.inputs import TestInputs
from taskarith.relations.probe import _answer, alone, cut_inputs


@pytest.fixture(scope="module")
def loaded(phi):
    return open_model(str(phi), torch.device("cpu"), torch.float32, SILENT, trust_remote_code=False)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(tiny.text(40), encoding="utf-8")
    return str(path)


def test_inputs_are_spread_over_the_text(loaded, text):
    every = cut_inputs(loaded, {"a": text}, TestInputs(16, 10_000))["a"]
    few = cut_inputs(loaded, {"a": text}, TestInputs(16, 3))["a"]
    assert len(every) > 5
    assert [sample.id for sample in few] == [every[0].id, every[round((len(every) - 1) / 2)].id, every[-1].id]


def test_a_text_that_is_too_short_is_refused(loaded, tmp_path):
    (tmp_path / "short.txt").write_text("ab")
    with pytest.raises(DataError, match="an input with three scored tokens"):
        cut_inputs(loaded, {"a": str(tmp_path / "short.txt")}, TestInputs(16, 2))


def test_losses_and_outputs_are_those_of_the_model(loaded, text):
    samples = cut_inputs(loaded, {"a": text}, TestInputs(16, 3))["a"]
    counted = []
    answers = _answer(loaded, samples, lambda answer: answer, counted.append)
    assert sum(counted) == len(samples)
    for sample, answer in zip(samples, answers, strict=True):
        ids = torch.tensor([sample.input_ids])
        with torch.no_grad():
            expected = loaded.model(input_ids=ids, labels=ids)
        assert answer.losses.mean() == pytest.approx(float(expected.loss), rel=1e-5)
        logits = expected.logits[0, :-1].numpy()
        assert np.allclose(answer.logits[[0, -1]], logits[[0, -1]], atol=1e-5)
        assert answer.targets[[0, -1]].tolist() == [ids[0, 1], ids[0, -1]]
        assert 0 < answer.entropy < np.log(tiny.VOCABULARY)


def test_one_vector_alone_has_weight_1():
    assert alone(1, 3) == [0.0, 1.0, 0.0]
