"""Teacher-forced losses are the model's own, whatever the batch and the chunk."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from evaluating import gemma, load, own_scores, random_samples

from taskarith.evaluation.batches import Batching
from taskarith.evaluation.loss import keep_states, score_samples, split_model
from taskarith.evaluation.metrics.divergence import agreement, kl_divergence


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_loss_is_the_models_own(any_model, batch_size):
    samples = random_samples()
    scores = score_samples(any_model, samples, Batching(batch_size))
    for sample, score in zip(samples, scores, strict=True):
        nll, tokens, correct = own_scores(any_model, sample)
        assert (score.tokens, score.correct) == (tokens, correct)
        assert score.nll / tokens == pytest.approx(nll / tokens, abs=1e-5)


def test_loss_of_a_model_that_caps_its_logits_is_its_own():
    model, samples = gemma(), random_samples()
    scores = score_samples(model, samples, Batching(4))
    for sample, score in zip(samples, scores, strict=True):
        nll, tokens, correct = own_scores(model, sample)
        assert (score.tokens, score.correct) == (tokens, correct)
        assert score.nll / tokens == pytest.approx(nll / tokens, abs=1e-5)


def test_loss_in_small_chunks_of_logits_is_the_same(any_model, monkeypatch):
    samples = random_samples()
    whole = score_samples(any_model, samples, Batching(8))
    monkeypatch.setattr("taskarith.evaluation.loss._CPU_CHUNK", 3 * tiny.VOCABULARY)
    pieces = score_samples(any_model, samples, Batching(8))
    assert [(p.tokens, p.correct) for p in pieces] == [(w.tokens, w.correct) for w in whole]
    assert [p.nll for p in pieces] == pytest.approx([w.nll for w in whole], rel=1e-6)


def distributions(model, sample):
    """Log-probabilities before each scored token in float64, and those tokens."""
    ids = torch.tensor([sample.input_ids])
    start = max(sample.prompt_length, 1)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1]
    return logits.double().log_softmax(-1), ids[0, start:]


def test_every_token_is_recorded_with_its_z_score(any_model, monkeypatch):
    monkeypatch.setattr("taskarith.evaluation.loss._CPU_CHUNK", 7 * tiny.VOCABULARY)
    samples = random_samples()
    for sample, found in zip(samples, score_samples(any_model, samples, Batching(4)), strict=True):
        log, tokens = distributions(any_model, sample)
        own = log.gather(-1, tokens[:, None])[:, 0]
        mean = (log.exp() * log).sum(-1)
        spread = (log.exp() * (log - mean[:, None]) ** 2).sum(-1).sqrt()
        assert found.losses == pytest.approx(-own.numpy(), abs=1e-5)
        assert found.z_scores == pytest.approx(((own - mean) / spread).numpy(), abs=1e-4)
        assert (found.hits == (log.argmax(-1) == tokens).numpy()).all()
        assert (found.kl, found.agreed) == (None, None)


def compared(model, reference, samples, batch_size=4):
    """Scores of a model beside another, of which only states and head are kept."""
    parts, states = split_model(reference, samples[0]), {}
    score_samples(reference, samples, Batching(batch_size), split=parts, keep=states)
    kept = keep_states(parts, states, batch_size)
    return score_samples(model, samples, Batching(batch_size), reference=kept)


def test_divergence_is_that_of_the_whole_distributions(phi, phi_tuned):
    model, reference, samples = load(phi_tuned), load(phi), random_samples()
    for sample, found in zip(samples, compared(model, reference, samples), strict=True):
        here, there = (distributions(each, sample)[0].numpy() for each in (model, reference))
        assert found.kl == pytest.approx(kl_divergence(there, here).sum(), rel=1e-3, abs=1e-6)
        assert found.agreed == agreement(there, here).sum()
    assert any(found.kl > 1e-3 for found in compared(model, reference, samples))


def test_a_model_does_not_diverge_from_itself(any_model):
    samples = random_samples()
    assert all((f.kl, f.agreed) == (0, f.tokens) for f in compared(any_model, any_model, samples))


def test_z_scores_are_finite_where_a_model_is_certain_or_excludes(phi):
    model, samples = load(phi), random_samples()
    model.lm_head.bias.data[7] = 1e4
    for found in score_samples(model, samples, Batching(4)):
        assert np.isfinite(found.z_scores).all()
        assert found.z_scores.min() < -1e5  # a loss of 1e4 by a deviation of at least 1e-3
    model.lm_head.bias.data[7] = -math.inf  # which no sample asks for
    asked = [sample for sample in samples if 7 not in sample.input_ids[1:]]
    for found in score_samples(model, asked, Batching(4)):
        assert np.isfinite(found.z_scores).all()
        assert np.abs(found.z_scores).max() < 100
