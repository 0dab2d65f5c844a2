"""Teacher-forced losses: what a model gives to each token of a text, given the true tokens before it."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from taskarith.checkpoints.units import Batches
from taskarith.data.tokens import Sample
from taskarith.errors import CheckpointError
from taskarith.evaluation.batches import Batching, Grouping, in_batches, pad
from taskarith.evaluation.grouping import grouping_of_scoring

__all__ = ["CachedReference", "Halves", "TokenScore", "keep_states", "score_samples", "split_model"]

_CPU_CHUNK = 2**24  # logits held at once, in a float32 array of 64 MiB (beside a reference two)
_GPU_CHUNK = 2**26
_CPU_ROWS = 16  # rows of logits that are gone over several times while they are in the cache
_PROBE_TOKENS = 8
_SPLIT: WeakSet[PreTrainedModel] = WeakSet()
"""Models that ``split_model`` has split; other weights do not change that."""
_LEAST_LOGIT = -1e30  # of what a model excludes: its share is 0 all the same, and 0 * -inf would be NaN
_LEAST_VARIANCE = 1e-6  # as in open-unlearning: a model that is certain has none, and z-scores divide by its root

_Logits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class TokenScore:
    """What a model gives to the n scored tokens of one sample: all after the prompt, but never the first.

    :param losses: Negative log-likelihoods in nats, float32 of shape (n,).
    :param hits: Whether each token is the model's first choice, bool of shape (n,).
    :param z_scores: See ``metrics.membership.min_k_plus_score``; float32 of shape (n,).
    :param kl: Sum over the tokens of KL(reference || model) in nats; None without reference.
    :param agreed: Tokens at which both have the same first choice; None without reference.
    """

    losses: NDArray[np.float32]
    hits: NDArray[np.bool_]
    z_scores: NDArray[np.float32]
    kl: float | None = None
    agreed: int | None = None

    @property
    def nll(self) -> float:
        """Sum of the losses, taken in float64."""
        return float(self.losses.sum(dtype=np.float64))

    @property
    def tokens(self) -> int:
        """Number of scored tokens."""
        return len(self.losses)

    @property
    def correct(self) -> int:
        """Tokens that are the model's first choice."""
        return int(self.hits.sum())

    def pack(self) -> list[Any]:
        """Return plain values of JSON, from which ``unpack`` makes the same."""
        return [self.losses.tolist(), self.hits.tolist(), self.z_scores.tolist(), self.kl, self.agreed]

    @classmethod
    def unpack(cls, values: Any, sample: Sample, *, is_compared: bool) -> TokenScore:
        """Return the scores that were packed.

        :param sample: What they are of.
        :param is_compared: Whether there was a reference.
        :raises ValueError, TypeError: They are not of that sample.
        """
        losses, hits, z_scores, kl, agreed = values
        tokens = len(sample.input_ids) - max(sample.prompt_length, 1)
        if not len(losses) == len(hits) == len(z_scores) == tokens or not {True, False}.issuperset(hits):
            raise ValueError(f"{sample.id} has {tokens} scored tokens")
        beside = (float(kl), operator.index(agreed)) if is_compared else (None, None)
        return cls(np.array(losses, np.float32), np.array(hits, np.bool_), np.array(z_scores, np.float32), *beside)


@dataclass(frozen=True)
class Halves:
    """A model in two parts.

    :param body: From token ids and mask to hidden states, shape (rows, tokens, width).
    :param head: From hidden states to logits.
    :param is_split: False where the body is the whole model and the head only copies.
    """

    body: Callable[..., torch.Tensor]
    head: _Logits
    is_split: bool


@dataclass(frozen=True)
class CachedReference:
    """What is left of a model to compare others with: far less than its distributions.

    :param head: Its output layer, a copy.
    :param states: Position of a sample to its hidden states before each scored token, shape (tokens, width), on the
        CPU in the model's dtype. Of several processes each has those of its own batches.
    :param batch_size: Samples of the batches; with the same ones an equal model gives the same bits.
    """

    head: _Logits
    states: Mapping[int, torch.Tensor]
    batch_size: int


def score_samples(
    model: PreTrainedModel,
    samples: Sequence[Sample],
    batching: Batching,
    *,
    halves: Halves | None = None,
    keep: dict[int, torch.Tensor] | None = None,
    reference: CachedReference | None = None,
) -> list[TokenScore]:
    """Score samples by forward passes over batches of like length, one for all numbers.

    The logits of a batch are never held as a whole where the model allows it: the body runs once for hidden states, and
    the output layer over chunks of scored positions. Log-likelihoods are taken in float32 and summed in float64.

    :param model: In evaluation mode.
    :param samples: Their ids name them in errors.
    :param batching: Its units are not used with ``keep``, which needs all batches to be run.
    :param halves: From ``split_model``, where that is known.
    :param keep: Takes the hidden states of this process's samples, to be ``CachedReference``.
    :param reference: What is kept of another model of the same vocabulary on the same samples.
    :raises CheckpointError: A loss is not finite.
    """
    kept = None
    if batching.units is not None and keep is None:
        unpack = partial(_unpack, samples, reference is not None)
        kept = Batches(batching.units, TokenScore.pack, unpack)
    parts = halves or split_model(model, samples[0])

    def run(batch: list[int]) -> list[TokenScore]:
        chosen = [samples[index] for index in batch]
        states, targets, counts = _states(model.device, chosen, parts.body)
        if keep is not None:
            keep.update(zip(batch, states.cpu().split(counts), strict=True))
        others = None if reference is None else torch.cat([reference.states[index] for index in batch])
        scores = _score_tokens(states, targets, parts.head, others, reference)
        batching.on_tokens(sum(len(sample.input_ids) for sample in chosen))
        return _by_sample(scores, counts)

    with torch.inference_mode():
        rows = [sample.input_ids for sample in samples]
        is_alone = min(batching.size, len(rows)) == 1
        grouping = Grouping.ALONE if is_alone else grouping_of_scoring(model, rows)
        lengths = [len(row) for row in rows]
        scores = in_batches(
            lengths, run, batching.size, shrink=batching.shrink, grouping=grouping, team=batching.team, kept=kept
        )
    broken = [(sample, score) for sample, score in zip(samples, scores, strict=True) if not math.isfinite(score.nll)]
    for sample, score in broken:
        raise CheckpointError(
            f"the loss of {sample.id} is not finite ({score.nll}), nor is that of {len(broken) - 1} more samples",
            "Weights are broken or overflow: check the model, use --dtype float32, or a smaller alpha.",
        )
    return scores


def _unpack(samples: Sequence[Sample], is_compared: bool, item: int, values: Any) -> TokenScore:
    return TokenScore.unpack(values, samples[item], is_compared=is_compared)


def keep_states(halves: Halves, states: Mapping[int, torch.Tensor], batch_size: int) -> CachedReference:
    """Return what ``score_samples`` compares other models with; an edit in memory does not change it."""
    return CachedReference(copy.deepcopy(halves.head), states, batch_size)


def split_model(model: PreTrainedModel, sample: Sample) -> Halves:
    """Return the model in two parts, up to the hidden states and from there to the logits.

    Some architectures scale or cap their logits after the output layer. So a few tokens go both ways, once for each
    model, and if a single bit differs the first part is the whole model, and the second does nothing.
    """
    body, head = model.base_model, model.get_output_embeddings()

    def whole(**inputs: torch.Tensor) -> torch.Tensor:
        return model(**inputs, use_cache=False).logits

    def up_to_states(**inputs: torch.Tensor) -> torch.Tensor:
        return body(**inputs, use_cache=False)[0]

    unsplit = Halves(whole, torch.clone, is_split=False)
    if body is model or head is None:
        return unsplit
    if model in _SPLIT:
        return Halves(up_to_states, head, is_split=True)
    with torch.inference_mode():
        ids, mask = pad([sample.input_ids[:_PROBE_TOKENS]], model.device, left=False)
        states = up_to_states(input_ids=ids, attention_mask=mask)
        expected = whole(input_ids=ids, attention_mask=mask)
        same = states.shape[-1] == getattr(head, "in_features", None) and torch.equal(head(states), expected)
    if not same:
        return unsplit
    _SPLIT.add(model)
    return Halves(up_to_states, head, is_split=True)


def _states(
    device: torch.device, samples: Sequence[Sample], body: Callable[..., torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Return the states before all scored tokens, those tokens, and how many of them each sample has."""
    ids, mask = pad([sample.input_ids for sample in samples], device, left=False)
    scored = torch.zeros_like(ids, dtype=torch.bool)
    for row, sample in enumerate(samples):
        scored[row, max(sample.prompt_length, 1) : len(sample.input_ids)] = True
    context, seen = ids[:, :-1], mask[:, :-1]  # the last token predicts none
    states = body(input_ids=context, attention_mask=None if seen.all() else seen)[scored[:, 1:]]
    return states, ids[scored], scored.sum(1).tolist()


def _score_tokens(
    states: torch.Tensor,
    targets: torch.Tensor,
    head: _Logits,
    others: torch.Tensor | None,
    reference: CachedReference | None,
) -> list[torch.Tensor]:
    """Return losses, hits and z-scores of tokens, each of shape (tokens,), on the CPU; beside a reference two more."""
    width = head(states[:1]).shape[-1]
    rows = max(1, (_CPU_CHUNK if states.device.type == "cpu" else _GPU_CHUNK) // width)
    chunks: list[list[torch.Tensor]] = []
    for start in range(0, len(states), rows):
        place = slice(start, start + rows)
        logits, wanted, beyond = head(states[place]), targets[place], None
        if others is not None and reference is not None:
            beyond = reference.head(others[place].to(states.device))
        step = _CPU_ROWS if states.device.type == "cpu" else rows
        for first in range(0, len(logits), step):
            few = slice(first, first + step)
            there = None if beyond is None else _Distribution(beyond[few])
            chunks.append([values.cpu() for values in _score_chunk(_Distribution(logits[few]), wanted[few], there)])
    return [torch.cat(column) for column in zip(*chunks, strict=True)]


class _Distribution:
    """Next-token distributions from logits of shape (tokens, vocabulary), which it changes; one exponential of each."""

    def __init__(self, logits: torch.Tensor) -> None:
        wide = logits.float()
        peak, self.choice = wide.max(-1, keepdim=True)
        self.logits = wide.sub_(peak)  # up to 0
        self.shares = self.logits.exp()  # times ``total``
        self.total = self.shares.sum(-1)
        self.log_total = self.total.log()


def _score_chunk(here: _Distribution, targets: torch.Tensor, there: _Distribution | None) -> list[torch.Tensor]:
    """Return losses, hits and z-scores; beside a reference also KL and agreement."""
    logits = here.logits.gather(-1, targets[:, None])[:, 0]
    losses = here.log_total - logits
    here.logits.clamp_(min=_LEAST_LOGIT)
    beside = []
    if there is not None:
        gaps = there.logits.clamp_(min=_LEAST_LOGIT).sub_(here.logits)
        kl = gaps.mul_(there.shares).sum(-1) / there.total - there.log_total + here.log_total
        beside = [kl, (here.choice == there.choice)[:, 0]]
    # mean and variance of log p under p, of which log_total is no part but a shift
    mean = here.shares.mul_(here.logits).sum(-1) / here.total
    square = here.shares.mul_(here.logits).sum(-1) / here.total
    spread = (square - mean.square()).clamp_(min=_LEAST_VARIANCE).sqrt()
    return [losses, here.choice[:, 0] == targets, (logits - mean) / spread, *beside]


def _by_sample(columns: Sequence[torch.Tensor], counts: list[int]) -> list[TokenScore]:
    scores = []
    for losses, hits, z_scores, *beside in zip(*(column.split(counts) for column in columns), strict=True):
        kl, agreed = (float(beside[0].double().sum()), int(beside[1].sum())) if beside else (None, None)
        scores.append(TokenScore(losses.numpy(), hits.numpy(), z_scores.numpy(), kl, agreed))
    return scores
