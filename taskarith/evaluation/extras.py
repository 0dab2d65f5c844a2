"""Expensive measurements made only on request: sampled continuations and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from taskarith.checkpoints.team import ALONE, Team
from taskarith.data.tokens import Sample
from taskarith.errors import CheckpointError
from taskarith.evaluation.batches import Batching, batch_start
from taskarith.evaluation.generation import Sampling, continue_sampled
from taskarith.evaluation.leakage import FORGET, HOLDOUT
from taskarith.evaluation.models import Loaded
from taskarith.evaluation.records import Record, gradient_record, sampled_record

if TYPE_CHECKING:
    from taskarith.evaluation.measurement import Measurement
    from taskarith.evaluation.questions import Questions

__all__ = ["extra_records", "gradient_norm"]


def extra_records(
    loaded: Loaded, questions: Questions, measurement: Measurement, row: str, team: Team = ALONE
) -> list[Record]:
    """Return records of the sampled continuations and gradient norms that the measurement asks for.

    :param row: Name of the row they belong to.
    :param team: The processes that make this call; the first does the work, and all get the records.
    :raises CheckpointError: A gradient is not finite.
    """
    if not measurement.draws and not measurement.gradient_norms:
        return []

    def measure() -> list[Record]:
        records = _sampled(loaded, questions, measurement, row) if measurement.draws else []
        return records + (_gradients(loaded, questions.samples, row) if measurement.gradient_norms else [])

    return team.by_first(measure)


def gradient_norm(model: PreTrainedModel, sample: Sample) -> float:
    """Return the mean over all weights of the 2-norm of the gradient of a sample's mean token loss.

    Source: Wang et al. (arXiv:2402.17012). Convention: open-unlearning's, the mean of one norm per tensor, of
    the loss without end tokens; but in evaluation mode, without dropout.

    :param model: Unchanged afterwards, and without gradients.
    :param sample: Only tokens after its prompt count.
    """
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    required = [weight.requires_grad for weight in weights]
    ids = torch.tensor([sample.input_ids], device=model.device)
    start = max(sample.prompt_length, 1)
    end = max(len(sample.input_ids) - sample.end_tokens, start + 1)
    try:
        for weight in weights:  # an adapter's base is frozen
            weight.requires_grad_(True)
        with torch.enable_grad():
            forward: Any = model
            logits = forward(input_ids=ids, use_cache=False).logits[0, start - 1 : end - 1]
            loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, start:end])
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    finally:
        for weight, before in zip(weights, required, strict=True):
            weight.requires_grad_(before)
    norms = [gradient.float().norm().cpu() for gradient in gradients if gradient is not None]
    return float(torch.stack(norms).mean())


def _gradients(loaded: Loaded, samples: Sequence[tuple[str, Sample]], row: str) -> list[Record]:
    records = []
    for text, sample in samples:
        if text in {FORGET, HOLDOUT}:
            norm = gradient_norm(loaded.model, sample)
            if not norm < float("inf"):
                raise CheckpointError(
                    f"the gradient of {row} on sample {sample.id} of {text} is not finite",
                    "Check the weights, use --dtype float32, or leave out --gradient-norms.",
                )
            records.append(gradient_record(row, text, sample.id, norm))
    return records


def _sampled(loaded: Loaded, questions: Questions, measurement: Measurement, row: str) -> list[Record]:
    records = []
    for tokens, prompts in questions.prompts_by_length(measurement.continuation_tokens).items():
        longest = max(len(prompt.input_ids) for _, prompt in prompts) + tokens
        given = measurement.batch_size
        size = batch_start(loaded.model, longest, cached=True) if given == "auto" else given
        drawn = continue_sampled(
            loaded.model,
            loaded.tokenizer,
            [prompt for _, prompt in prompts],
            Batching(size, shrink=given == "auto"),
            Sampling(measurement.draws, 0, measurement.seed),
            max_new_tokens=tokens,
            end_ids=loaded.end_ids,
        )
        records += [
            sampled_record(row, text, prompt.id, prompt.reference, texts)
            for (text, prompt), texts in zip(prompts, drawn, strict=True)
        ]
    return records
