"""Teacher-forced scores: a model's loss on each token of a text, given the true tokens before it."""

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

__all__ = ["CachedReference", "SplitModel", "TokenScore", "keep_states", "logit_rows", "score_samples", "split_model"]

_CPU_CHUNK = 2**24  # logits in memory at once: 64 MiB in float32, twice that with a reference
_GPU_CHUNK = 2**26
_CPU_ROWS = 16  # rows of logits that stay in the cache over several passes
_PROBE_TOKENS = 8
_SPLITTABLE: WeakSet[PreTrainedModel] = WeakSet()
"""Models that ``split_model`` can split, whatever their weights."""
_LEAST_LOGIT = -1e30  # of tokens that a model excludes: their probability is 0 either way, and 0 * -inf would be NaN
_LEAST_VARIANCE = 1e-6  # as in open-unlearning: z-scores divide by its root, and a certain model has none

_Logits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class TokenScore:
    """A model's scores on the n scored tokens of a sample: all after the prompt, but never the first.

    :param losses: Negative log-likelihoods in nats, float32 of shape (n,).
    :param hits: Whether each token is the model's first choice, bool of shape (n,).
    :param z_scores: See ``metrics.membership.min_k_plus_score``; float32 of shape (n,).
    :param kl: Sum over the tokens of KL(reference || model) in nats; None without a reference.
    :param agreed: Tokens at which both have the same first choice; None without a reference.
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
        """Return plain JSON values, which ``unpack`` reads back."""
        return [self.losses.tolist(), self.hits.tolist(), self.z_scores.tolist(), self.kl, self.agreed]

    @classmethod
    def unpack(cls, values: Any, sample: Sample, *, is_compared: bool) -> TokenScore:
        """Return scores from the values of ``pack``.

        :param sample: The scored sample.
        :param is_compared: Whether there was a reference.
        :raises ValueError, TypeError: They do not belong to that sample.
        """
        losses, hits, z_scores, kl, agreed = values
        tokens = len(sample.input_ids) - max(sample.prompt_length, 1)
        if not len(losses) == len(hits) == len(z_scores) == tokens or not {True, False}.issuperset(hits):
            raise ValueError(f"{sample.id} has {tokens} scored tokens")
        beside = (float(kl), operator.index(agreed)) if is_compared else (None, None)
        return cls(np.array(losses, np.float32), np.array(hits, np.bool_), np.array(z_scores, np.float32), *beside)


@dataclass(frozen=True)
class SplitModel:
    """A model split into body and output layer.

    :param body: Maps token ids and mask to hidden states, shape (rows, tokens, width).
    :param head: Maps hidden states to logits.
    :param is_split: False if the body is the whole model and the head only copies.
    """

    body: Callable[..., torch.Tensor]
    head: _Logits
    is_split: bool


@dataclass(frozen=True)
class CachedReference:
    """A reference model's stored states, much smaller than its distributions.

    :param head: A copy of its output layer.
    :param states: Hidden states before each scored token by sample index, shape (tokens, width), on the CPU in the
        model's dtype. Each process has those of its own batches.
    :param batch_size: Batch size; with the same one, an equal model gives the same bits.
    """

    head: _Logits
    states: Mapping[int, torch.Tensor]
    batch_size: int


def score_samples(
    model: PreTrainedModel,
    samples: Sequence[Sample],
    batching: Batching,
    *,
    split: SplitModel | None = None,
    keep: dict[int, torch.Tensor] | None = None,
    reference: CachedReference | None = None,
) -> list[TokenScore]:
    """Score samples in batches of similar length, with one forward pass for all numbers.

    If the model can be split, the logits of a batch are never in memory as a whole: the body computes hidden states
    once, and the output layer runs over chunks of scored positions. Log-likelihoods are computed in float32 and summed
    in float64.

    :param model: In evaluation mode.
    :param samples: Errors name them by id.
    :param batching: Its units are not used with ``keep``, which needs every batch to run.
    :param split: Result of ``split_model``, if known.
    :param keep: Receives the hidden states of this process's samples, for ``CachedReference``.
    :param reference: Another model of the same vocabulary on the same samples.
    :raises CheckpointError: A loss is not finite.
    """
    kept = None
    if batching.units is not None and keep is None:
        unpack = partial(_unpack, samples, reference is not None)
        kept = Batches(batching.units, TokenScore.pack, unpack)
    parts = split or split_model(model, samples[0])

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
            f"the loss of {sample.id} is not finite ({score.nll}), nor are those of {len(broken) - 1} more samples",
            "The weights are broken or overflow: check the model, or use --dtype float32 or a smaller alpha.",
        )
    return scores


def _unpack(samples: Sequence[Sample], is_compared: bool, item: int, values: Any) -> TokenScore:
    return TokenScore.unpack(values, samples[item], is_compared=is_compared)


def keep_states(split: SplitModel, states: Mapping[int, torch.Tensor], batch_size: int) -> CachedReference:
    """Return a reference for ``score_samples`` that later edits in memory do not change."""
    return CachedReference(copy.deepcopy(split.head), states, batch_size)


def split_model(model: PreTrainedModel, sample: Sample) -> SplitModel:
    """Split a model into a body, up to the hidden states, and a head, from there to the logits.

    Some architectures scale or cap their logits after the output layer. So a few tokens are scored both ways, once per
    model, and if a single bit differs the model is not split.
    """
    body, head = model.base_model, model.get_output_embeddings()

    def whole(**inputs: torch.Tensor) -> torch.Tensor:
        return model(**inputs, use_cache=False).logits

    def up_to_states(**inputs: torch.Tensor) -> torch.Tensor:
        return body(**inputs, use_cache=False)[0]

    unsplit = SplitModel(whole, torch.clone, is_split=False)
    if body is model or head is None:
        return unsplit
    if model in _SPLITTABLE:
        return SplitModel(up_to_states, head, is_split=True)
    with torch.inference_mode():
        ids, mask = pad([sample.input_ids[:_PROBE_TOKENS]], model.device, left=False)
        states = up_to_states(input_ids=ids, attention_mask=mask)
        expected = whole(input_ids=ids, attention_mask=mask)
        same = states.shape[-1] == getattr(head, "in_features", None)
        same = same and torch.equal(head(states).to(expected.device), expected)
    if not same:
        return unsplit
    _SPLITTABLE.add(model)
    return SplitModel(up_to_states, head, is_split=True)


def logit_rows(device: torch.device, width: int) -> int:
    """Return how many rows of logits of a vocabulary of that width are in memory at once."""
    return max(1, (_CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK) // width)


def _states(
    device: torch.device, samples: Sequence[Sample], body: Callable[..., torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Return the hidden states before all scored tokens, those tokens, and their number per sample."""
    ids, mask = pad([sample.input_ids for sample in samples], device, left=False)
    scored = torch.zeros_like(ids, dtype=torch.bool)
    for row, sample in enumerate(samples):
        scored[row, max(sample.prompt_length, 1) : len(sample.input_ids)] = True
    context, seen = ids[:, :-1], mask[:, :-1]  # the last token predicts nothing
    states = body(input_ids=context, attention_mask=None if seen.all() else seen)
    states = states[scored[:, 1:].to(states.device)]  # with a device map, that of the last layer
    return states, ids[scored], scored.sum(1).tolist()


def _score_tokens(
    states: torch.Tensor,
    targets: torch.Tensor,
    head: _Logits,
    others: torch.Tensor | None,
    reference: CachedReference | None,
) -> list[torch.Tensor]:
    """Return losses, hits and z-scores of tokens, each of shape (tokens,), on the CPU; beside a reference two more."""
    rows = logit_rows(states.device, head(states[:1]).shape[-1])
    chunks: list[list[torch.Tensor]] = []
    for start in range(0, len(states), rows):
        block = slice(start, start + rows)
        logits, reference_logits = head(states[block]), None
        wanted = targets[block].to(logits.device)
        if others is not None and reference is not None:
            reference_logits = reference.head(others[block].to(states.device))
        step = _CPU_ROWS if states.device.type == "cpu" else rows
        for first in range(0, len(logits), step):
            few = slice(first, first + step)
            there = None if reference_logits is None else _Distribution(reference_logits[few])
            chunks.append([values.cpu() for values in _score_chunk(_Distribution(logits[few]), wanted[few], there)])
    return [torch.cat(column) for column in zip(*chunks, strict=True)]


class _Distribution:
    """Next-token distributions from logits of shape (tokens, vocabulary), which it overwrites."""

    def __init__(self, logits: torch.Tensor) -> None:
        wide = logits.float()
        peak, self.choice = wide.max(-1, keepdim=True)
        self.logits = wide.sub_(peak)  # up to 0
        self.shares = self.logits.exp()  # times ``total``
        self.total = self.shares.sum(-1)
        self.log_total = self.total.log()


def _score_chunk(here: _Distribution, targets: torch.Tensor, there: _Distribution | None) -> list[torch.Tensor]:
    """Return losses, hits and z-scores; with a reference also KL and agreement."""
    logits = here.logits.gather(-1, targets[:, None])[:, 0]
    losses = here.log_total - logits
    here.logits.clamp_(min=_LEAST_LOGIT)
    beside = []
    if there is not None:
        gaps = there.logits.clamp_(min=_LEAST_LOGIT).sub_(here.logits)
        kl = gaps.mul_(there.shares).sum(-1) / there.total - there.log_total + here.log_total
        beside = [kl, (here.choice == there.choice)[:, 0]]
    # mean and variance of log p under p, both up to the shift by log_total
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
