"""The formulas of objectives that make a model forget: functions of log-probabilities, and for RMU of hidden states.

Each returns one number for each row, to be summed over the rows of an optimizer step and divided by how many tokens
(``ascent``, ``likelihood``, ``divergence``) or rows (``npo``, ``simnpo``, ``state_distance``) that step has. A
step's loss is forget term + retain weight * retain term. ``learned`` marks the tokens that count: those of the text or
answer, not of the prompt or the padding.
"""

from __future__ import annotations

import torch
from torch.nn.functional import kl_div, logsigmoid

__all__ = ["ascent", "control_vector", "divergence", "likelihood", "npo", "simnpo", "state_distance"]


def ascent(log_p: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each row: to minimise it is to ascend the usual loss.

    sum_t log p(y_t | y_<t); divided by the tokens of the step.

    Source: Jang et al., "Knowledge Unlearning for Mitigating Privacy Risks in Language Models" (ACL 2023). With
    the usual loss of the retain set added it is the gradient difference of Liu, Liu and Stone, "Continual Learning and
    Private Unlearning" (CoLLAs 2022), as Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs" (2024) apply
    it. It has no parameters; OpenUnlearning's weights of both terms are 1.

    :param log_p: Of the true tokens, of shape (rows, tokens).
    :param learned: Bool, of the same shape.
    :return: Of shape (rows,).
    """
    return torch.where(learned, log_p, 0).sum(1)


def likelihood(log_p: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """Return the usual loss of each row: -sum_t log p(y_t | y_<t); divided by the tokens of the step.

    :param log_p: Of the true tokens, of shape (rows, tokens).
    :param learned: Bool, of the same shape.
    :return: Of shape (rows,).
    """
    return -ascent(log_p, learned)


def npo(log_p: torch.Tensor, learned: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the loss of negative preference optimisation of each row.

    -(2 / beta) log sigmoid(-beta log(p(y) / p_ref(y))) with p(y) the product over the tokens of the row; the mean over
    rows. Its gradient tends to that of the mean of log p(y), which is ascent, as beta tends to 0.

    Source: Zhang, Lin, Bai and Mei, "Negative Preference Optimization: From Catastrophic Collapse to Effective
    Unlearning" (COLM 2024). beta is 0.1 there and in OpenUnlearning.

    :param log_p: Of the true tokens, of shape (rows, tokens).
    :param learned: Bool, of the same shape.
    :param reference: Log-probability of each row for the reference model, of shape (rows,).
    :param beta: Inverse temperature, above 0.
    :return: Of shape (rows,).
    """
    ratio = ascent(log_p, learned) - reference
    return -2 / beta * logsigmoid(-beta * ratio)


def simnpo(log_p: torch.Tensor, learned: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the loss of NPO without a reference model, by the mean over tokens instead.

    -(2 / beta) log sigmoid(-(beta / |y|) log p(y)); the mean over rows.

    Source: Fan et al., "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning" (2024),
    where a margin gamma is subtracted, whose default is 0. beta is 4.5 in OpenUnlearning, which multiplies the forget
    term by 0.125: a retain weight of 8 is the same ratio.

    :param log_p: Of the true tokens, of shape (rows, tokens).
    :param learned: Bool, of the same shape; at least one token in every row.
    :param beta: Inverse temperature, above 0.
    :return: Of shape (rows,).
    """
    mean = ascent(log_p, learned) / learned.sum(1).clamp(min=1)
    return -2 / beta * logsigmoid(-beta * mean)


def divergence(log_p: torch.Tensor, reference: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence of the model from the reference, summed over the tokens of each row.

    sum_t sum_v p_ref(v | y_<t) (log p_ref(v | y_<t) - log p(v | y_<t)); divided by the tokens of the step.

    Source: Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs" (2024), where it is the retain term of "KL
    minimization". OpenUnlearning averages over prompts and padding, too.

    :param log_p: Of all tokens of the vocabulary, of shape (rows, tokens, vocabulary).
    :param reference: The same of the reference model; any finite numbers where not ``learned``.
    :param learned: Bool, of shape (rows, tokens).
    :return: Of shape (rows,).
    """
    each = kl_div(log_p, reference, reduction="none", log_target=True).sum(2)
    return torch.where(learned, each, 0).sum(1)


def state_distance(states: torch.Tensor, target: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance of each row's hidden states from a target: both terms of RMU.

    (1 / |y|) sum_t (1 / d) ||h_t - target_t||^2; the mean over rows. The forget term's target is the control vector,
    the retain term's are the states of the reference model.

    Source: Li et al., "The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning" (ICML 2024), section
    4, without the mean over d; the mean over d is that of its code and of OpenUnlearning, which takes this mean over
    rows only where all have as many tokens: otherwise it divides each row's sum by the tokens of every row.

    :param states: After a decoder layer, of shape (rows, tokens, size).
    :param target: Of the same shape, or (size,).
    :param learned: Bool, of shape (rows, tokens), the token whose state it is; at least one in every row.
    :return: Of shape (rows,).
    """
    each = (states - target).square().mean(2)
    return torch.where(learned, each, 0).sum(1) / learned.sum(1).clamp(min=1)


def control_vector(size: int, length: float, seed: int) -> torch.Tensor:
    """Draw the direction to which RMU steers states: uniform in [0, 1) in each dimension, scaled to a length.

    Source: Li et al. (2024), section 4: the length is its steering coefficient, 6.5 for Zephyr-7B.

    :param size: Of the hidden states.
    :param length: Its Euclidean norm.
    :param seed: Of the draw.
    :return: Float32, of shape (size,), on the CPU.
    """
    drawn = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm() * length
