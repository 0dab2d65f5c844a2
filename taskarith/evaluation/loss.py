"""Teacher-forced losses: what a model gives to each token of a text, given the true tokens before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from taskarith.errors import CheckpointError
from taskarith.evaluation.batches import in_batches, pad
from taskarith.training.tokens import Sample

__all__ = ["TokenScore", "score_samples"]

_CPU_CHUNK = 2**23  # float32 logits held at once: 32 MiB, which the allocator keeps for the next chunk
_GPU_CHUNK = 2**26
_PROBE_TOKENS = 8

_Logits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class TokenScore:
    """Sums over the scored tokens of one sample.

    :param nll: Negative log-likelihood in nats.
    :param tokens: Scored tokens: all after the prompt, but never the first of a sample, which has no context.
    :param correct: Tokens that are the model's first choice.
    """

    nll: float
    tokens: int
    correct: int


def score_samples(
    model: PreTrainedModel,
    samples: Sequence[Sample],
    batch_size: int,
    *,
    shrink: bool,
    on_tokens: Callable[[int], None],
) -> list[TokenScore]:
    """Score samples by forward passes over batches of like length.

    The logits of a batch are never held as a whole where the model allows it: the body runs once for hidden states, and
    the output layer over chunks of scored positions. Log-likelihoods are taken in float32 and summed in float64.

    :param model: In evaluation mode.
    :param samples: Their ids name them in errors.
    :param batch_size: Samples of a batch.
    :param shrink: Halve it where memory is short.
    :param on_tokens: Told the number of tokens of each finished batch.
    :raises CheckpointError: A loss is not finite.
    """
    hidden_states, head = _split(model, samples[0])

    def run(batch: list[int]) -> list[TokenScore]:
        chosen = [samples[index] for index in batch]
        scores = _score_batch(model.device, chosen, hidden_states, head)
        on_tokens(sum(len(sample.input_ids) for sample in chosen))
        return scores

    with torch.inference_mode():
        scores = in_batches([len(sample.input_ids) for sample in samples], run, batch_size, shrink=shrink)
    for sample, score in zip(samples, scores, strict=True):
        if not math.isfinite(score.nll):
            raise CheckpointError(
                f"the loss of {sample.id} is not finite ({score.nll})",
                "Weights are broken or overflow: check the model, use --dtype float32, or a smaller alpha.",
            )
    return scores


def _score_batch(
    device: torch.device, samples: Sequence[Sample], body: Callable[..., torch.Tensor], head: _Logits
) -> list[TokenScore]:
    ids, mask = pad([sample.input_ids for sample in samples], device, left=False)
    scored = torch.zeros_like(ids, dtype=torch.bool)
    for row, sample in enumerate(samples):
        scored[row, max(sample.prompt_length, 1) : len(sample.input_ids)] = True
    states = body(input_ids=ids, attention_mask=mask)[:, :-1][scored[:, 1:]]
    targets = ids[scored]
    nll, correct = _score_tokens(states, targets, head)
    counts = scored.sum(1).tolist()
    return [
        TokenScore(float(losses.sum()), count, int(hits.sum()))
        for losses, hits, count in zip(nll.split(counts), correct.split(counts), counts, strict=True)
    ]


def _score_tokens(states: torch.Tensor, targets: torch.Tensor, head: _Logits) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loss (float64) and whether the first choice is right (bool), each of shape (tokens,), on the CPU."""
    width = head(states[:1]).shape[-1]
    rows = max(1, (_CPU_CHUNK if states.device.type == "cpu" else _GPU_CHUNK) // width)
    losses, hits = [], []
    for some, wanted in zip(states.split(rows), targets.split(rows), strict=True):
        logits = head(some).float()
        losses.append(cross_entropy(logits, wanted, reduction="none"))
        hits.append(logits.argmax(-1) == wanted)
    return torch.cat(losses).cpu().double(), torch.cat(hits).cpu()


def _split(model: PreTrainedModel, sample: Sample) -> tuple[Callable[..., torch.Tensor], _Logits]:
    """Return the model in two parts, up to the hidden states and from there to the logits.

    Some architectures scale or cap their logits after the output layer. So a few tokens go both ways, and if a single
    bit differs the first part is the whole model, and the second does nothing.
    """
    body, head = model.base_model, model.get_output_embeddings()

    def whole(**inputs: torch.Tensor) -> torch.Tensor:
        return model(**inputs, use_cache=False).logits

    def up_to_states(**inputs: torch.Tensor) -> torch.Tensor:
        return body(**inputs, use_cache=False)[0]

    if body is model or head is None:
        return whole, torch.nn.Identity()
    with torch.inference_mode():
        ids, mask = pad([sample.input_ids[:_PROBE_TOKENS]], model.device, left=False)
        states = up_to_states(input_ids=ids, attention_mask=mask)
        expected = whole(input_ids=ids, attention_mask=mask)
        same = states.shape[-1] == getattr(head, "in_features", None) and torch.equal(head(states), expected)
    return (up_to_states, head) if same else (whole, torch.nn.Identity())
