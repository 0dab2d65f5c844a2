"""Objectives of forgetting: their laws, and the numbers of OpenUnlearning's functions for the same inputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from taskarith.training.objectives import (
    ascent,
    control_vector,
    divergence,
    likelihood,
    npo,
    simnpo,
    state_distance,
)

ROWS, TOKENS, VOCABULARY = 3, 6, 5
GRID = torch.arange(ROWS * TOKENS * VOCABULARY, dtype=torch.float64).reshape(ROWS, TOKENS, VOCABULARY)
LOGITS, REFERENCE = 2 * torch.sin(0.7 * GRID + 1), 2 * torch.cos(1.3 * GRID)
IDS = (3 * torch.arange(ROWS * TOKENS).reshape(ROWS, TOKENS) % VOCABULARY)[:, 1:]
LEARNED = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]).bool()
EQUAL = torch.tensor([[0, 1, 1, 1, 1]] * ROWS).bool()
CONTROL = torch.linspace(0, 1, VOCABULARY, dtype=torch.float64)


def all_log_p(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, :-1].log_softmax(2)


def log_p(logits: torch.Tensor) -> torch.Tensor:
    return all_log_p(logits).gather(2, IDS[..., None])[..., 0]


def gradient(value: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    value(logits).backward()
    assert logits.grad is not None
    return logits.grad


def rmu(logits: torch.Tensor) -> torch.Tensor:
    forget = state_distance(logits[:, 1:], CONTROL, EQUAL)
    return (forget + state_distance(logits.flip(1)[:, 1:], REFERENCE.flip(1)[:, 1:], EQUAL)).sum() / ROWS


BASE = ascent(log_p(REFERENCE), LEARNED)
COUNT = LEARNED.sum()


@pytest.mark.parametrize(
    ("value", "golden", "norm"),
    [
        (lambda one: ascent(log_p(one), LEARNED).sum() / COUNT, -2.5865219895466454, 0.31267906462633765),
        (
            lambda one: (ascent(log_p(one), LEARNED) + likelihood(log_p(one.flip(2)), LEARNED)).sum() / COUNT,
            -0.6093100140387502,
            0.38569460791993504,
        ),
        (lambda one: npo(log_p(one), LEARNED, BASE, 0.1).sum() / ROWS, 13.958409739391637, 1.1437660382984336),
        (lambda one: npo(log_p(one), LEARNED, BASE, 1.0).sum() / ROWS, 1.5605433157341475, 1.1569066316589953),
        (lambda one: simnpo(log_p(one), LEARNED, 4.5).sum() / ROWS, 6.254110945620645e-06, 1.2063175607787963e-05),
        (
            lambda one: divergence(all_log_p(one), all_log_p(REFERENCE), LEARNED).sum() / COUNT,
            0.9544693110840037,
            0.16447289469655252,
        ),
        (rmu, 6.406253832359923, 0.7574305916054234),
    ],
    ids=["ascent", "graddiff", "npo 0.1", "npo 1", "simnpo", "kl", "rmu"],
)
def test_values_and_gradients_are_those_of_openunlearning(value, golden, norm):
    """They were calculated in float64 by its functions, from the same logits, labels and hidden states."""
    assert value(LOGITS).item() == pytest.approx(golden, rel=1e-12)
    assert gradient(value).norm().item() == pytest.approx(norm, rel=1e-12)


def test_npo_without_temperature_is_ascent():
    by_ascent = gradient(lambda one: ascent(log_p(one), LEARNED).sum() / ROWS)
    for beta, near in ((1e-2, 0.1), (1e-6, 1e-5)):
        by_npo = gradient(lambda one, beta=beta: npo(log_p(one), LEARNED, BASE, beta).sum() / ROWS)
        assert (by_npo - by_ascent).norm() < near * by_ascent.norm()


def test_npo_weighs_each_row_by_how_likely_it_still_is():
    """The gradient of a row is that of ascent times 2 p^beta / (p^beta + p_ref^beta)."""
    ratio = (ascent(log_p(LOGITS), LEARNED) - BASE).mul(0.7).exp()
    weight = 2 * ratio / (ratio + 1)
    expected = gradient(lambda one: (weight * ascent(log_p(one), LEARNED)).sum())
    assert torch.allclose(gradient(lambda one: npo(log_p(one), LEARNED, BASE, 0.7).sum()), expected, 1e-12, 1e-15)


def test_simnpo_is_npo_of_a_certain_reference_by_the_mean_over_tokens():
    mean = log_p(LOGITS) / LEARNED.sum(1, keepdim=True)
    assert torch.allclose(simnpo(log_p(LOGITS), LEARNED, 2.5), npo(mean, LEARNED, torch.zeros(ROWS), 2.5), 1e-14)


def test_a_model_does_not_diverge_from_itself():
    itself = all_log_p(LOGITS)
    assert divergence(itself, itself, LEARNED).abs().max() == 0
    assert gradient(lambda one: divergence(all_log_p(one), itself, LEARNED).sum()).abs().max() < 1e-15
    assert state_distance(LOGITS[:, 1:], LOGITS[:, 1:], LEARNED).abs().max() == 0
    assert (divergence(itself, all_log_p(REFERENCE), LEARNED) > 0).all()


def test_what_is_not_learned_counts_for_nothing():
    spoiled = LOGITS.clone()
    spoiled[:, :-1][~LEARNED] = 7.0
    assert torch.equal(ascent(log_p(spoiled), LEARNED), ascent(log_p(LOGITS), LEARNED))
    both = (divergence(all_log_p(one), all_log_p(REFERENCE), LEARNED) for one in (spoiled, LOGITS))
    assert torch.equal(*both)
    states = spoiled[:, :-1], LOGITS[:, :-1]
    assert torch.equal(*(state_distance(one, CONTROL, LEARNED) for one in states))


def test_the_control_vector_is_drawn_by_the_seed_and_has_the_length():
    drawn = control_vector(64, 6.5, 1)
    assert drawn.norm().item() == pytest.approx(6.5)
    assert drawn.min() >= 0
    assert torch.equal(drawn, control_vector(64, 6.5, 1))
    assert not torch.equal(drawn, control_vector(64, 6.5, 2))
