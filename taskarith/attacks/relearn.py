"""Relearning: a short fine-tuning in memory, stopped at several steps to look at what came back."""

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
_LARGEST_NORM = 1.0


def choose_samples(samples: Sequence[Sample], count: int, seed: int, spec: str) -> list[Sample]:
    """Draw the samples that an attacker is given; the others are held out.

    :param samples: All of the forget set.
    :param count: How many the attacker gets.
    :param seed: Of the draw.
    :param spec: Names the forget set in errors.
    :raises DataError: None would be left to hold out.
    """
    if count >= len(samples):
        raise DataError(
            f"{spec} has {len(samples)} samples: too few to give {count} to the attacker and hold others out",
            "Give more text, a smaller --block-size for more blocks, or fewer --relearn-samples.",
        )
    chosen = random.Random(seed).sample(range(len(samples)), count)  # noqa: S311  (no secret: it is to be repeated)
    return [samples[index] for index in sorted(chosen)]


def steps_of(samples: Sequence[Sample], epochs: int) -> int:
    """Return the optimizer steps of so many passes over samples."""
    return math.ceil(len(samples) / _BATCH) * epochs


def relearned(
    loaded: Loaded, samples: Sequence[Sample], steps: Sequence[int], learning_rate: float, seed: int
) -> Generator[int]:
    """Fine-tune all weights, and give each step count at which to look; put the weights back at the end.

    AdamW without weight decay at a constant learning rate, gradients clipped to norm 1, batches of up to 4 samples in
    an order that only the seed decides, float32 weights, bfloat16 autocast where the device is good at it. Dropout
    is off: a few steps are to be the same for every model.

    :param loaded: In float32 and evaluation mode; it is in that mode whenever a step count is given.
    :param samples: What the attacker has.
    :param steps: Ascending.
    :param learning_rate: Of every step.
    :param seed: Of the order of samples.
    :raises TaskarithError: The loss is not finite any more.
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
                torch.nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_NORM)
                optimizer.step()
                optimizer.zero_grad()
                if step in steps:
                    yield step
        finally:
            for parameter, before in zip(model.parameters(), trained, strict=True):
                parameter.requires_grad_(before)


def _batches(samples: Sequence[Sample], seed: int) -> Generator[list[Sample]]:
    """Give batches for ever: every pass goes through all samples in a new order."""
    order = random.Random(seed)  # noqa: S311
    while True:
        passing = order.sample(list(samples), len(samples))
        for start in range(0, len(passing), _BATCH):
            yield passing[start : start + _BATCH]
