"""Relearning: a short fine-tuning in memory that pauses at several steps for measurements."""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Sequence

import torch

from taskarith.attacks.quantise import preserved
from taskarith.data.tokens import Sample
from taskarith.errors import DataError, TaskarithError
from taskarith.evaluation.models import Loaded
from taskarith.models.device import autocast_choice
from taskarith.training.examples import Collator, Example

__all__ = ["choose_samples", "relearned", "steps_of"]

_BATCH = 4
_MAX_GRAD_NORM = 1.0


def choose_samples(samples: Sequence[Sample], count: int, seed: int, spec: str) -> list[Sample]:
    """Draw the samples given to the attacker; the others are held out.

    :param samples: The whole forget set.
    :param count: How many samples the attacker gets.
    :param seed: Random seed.
    :param spec: Names the forget set in errors.
    :raises DataError: No samples would be held out.
    """
    if count >= len(samples):
        raise DataError(
            f"{spec} has {len(samples)} samples, too few to give {count} to the attacker and hold out others",
            "Give more text, a smaller --block-size for more blocks, or fewer --relearn-samples.",
        )
    chosen = random.Random(seed).sample(range(len(samples)), count)  # noqa: S311  (reproducible, not secret)
    return [samples[index] for index in sorted(chosen)]


def steps_of(samples: Sequence[Sample], epochs: int) -> int:
    """Return the number of optimizer steps of some epochs over the samples."""
    return math.ceil(len(samples) / _BATCH) * epochs


def relearned(
    loaded: Loaded, samples: Sequence[Sample], steps: Sequence[int], learning_rate: float, seed: int
) -> Generator[int]:
    """Fine-tune all weights, yielding at each step to measure; restore the weights at the end.

    AdamW without weight decay at a constant learning rate, gradients clipped to norm 1, batches of up to 4 samples in
    an order set by the seed, float32 weights, bfloat16 autocast where the device is fast at it. Dropout is off, so that
    the few steps are comparable between models.

    :param loaded: In float32 and evaluation mode, in which it also is at each yield.
    :param samples: The attacker's samples.
    :param steps: Steps to yield at, ascending.
    :param learning_rate: Learning rate of every step.
    :param seed: Seed of the order of samples.
    :raises TaskarithError: The loss becomes infinite or NaN.
    """
    model, collate = loaded.model, Collator(0, weighted=False)
    batches = _batches(samples, seed)
    autocast, _ = autocast_choice(model.device, None)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    with preserved(model):
        try:
            model.requires_grad_(True)
            optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
            for step in range(1, steps[-1] + 1):
                batch = collate([Example(sample) for sample in next(batches)])
                inputs = {name: values.to(model.device) for name, values in batch.items()}
                with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
                    loss = model(**inputs, use_cache=False).loss
                if not math.isfinite(loss.item()):
                    raise TaskarithError(
                        f"relearning diverged: the loss of {loaded.name} is {loss.item()} at step {step}",
                        "Lower --learning-rate, and check the model with taskarith eval.",
                    )
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRAD_NORM)
                optimizer.step()
                optimizer.zero_grad()
                if step in steps:
                    yield step
        finally:
            for parameter, before in zip(model.parameters(), trained, strict=True):
                parameter.requires_grad_(before)


def _batches(samples: Sequence[Sample], seed: int) -> Generator[list[Sample]]:
    """Yield batches endlessly, reshuffling all samples every epoch."""
    order = random.Random(seed)  # noqa: S311
    while True:
        shuffled = order.sample(list(samples), len(samples))
        for start in range(0, len(shuffled), _BATCH):
            yield shuffled[start : start + _BATCH]
