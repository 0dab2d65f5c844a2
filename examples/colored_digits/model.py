"""A small vision transformer: made, trained, and asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification

from examples.colored_digits.data import SIDE

__all__ = ["Size", "Training", "accuracy", "cosine", "logits", "new_model", "parity_model", "train"]

_MEMORY = 0.95  # of the running mean of the loss: about 20 batches


@dataclass(frozen=True)
class Size:
    """Shape of the transformer.

    :param hidden: Width; the MLPs are twice as wide.
    :param layers: Number of blocks.
    :param patch: Width of a patch in pixels.
    """

    hidden: int = 64
    layers: int = 3
    patch: int = 8


@dataclass(frozen=True)
class Training:
    """How long and how fast one training goes, with AdamW.

    :param steps: The learning rate rises during a tenth of them, and then falls to zero by a cosine.
    :param enough: If given, the learning rate stays constant after ten steps, and training ends once the running mean
        of the loss is at most this, after ``steps`` at the latest: easy and hard tasks become equally certain.
    """

    steps: int
    learning_rate: float
    batch: int = 32
    enough: float | None = None


def new_model(size: Size, labels: int) -> ViTForImageClassification:
    """Make an untrained transformer; torch's global seed decides its weights."""
    config = ViTConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        intermediate_size=2 * size.hidden,
        image_size=SIDE,
        patch_size=size.patch,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.1,  # the usual 0.02 is meant for a width of 768: here training would hardly start
    )
    config.num_labels = labels
    return ViTForImageClassification(config)


def parity_model(pretrained: ViTForImageClassification, size: Size) -> ViTForImageClassification:
    """Put a frozen head of two opposite rows -a, a with random signs on a pre-trained body.

    It is the output layer of the paper's analysis. It makes the two logits ``(-f, f)``, and, as no training changes it,
    a task vector has the shape of the body whatever its task.
    """
    model = new_model(size, labels=2)
    model.vit.load_state_dict(pretrained.vit.state_dict())
    signs = torch.where(torch.rand(size.hidden) < 0.5, -1.0, 1.0) / size.hidden**0.5
    model.classifier.load_state_dict({"weight": torch.stack([-signs, signs]), "bias": torch.zeros(2)})
    model.classifier.requires_grad_(False)
    return model


def train(
    model: ViTForImageClassification,
    draw: Callable[[], tuple[Tensor, Tensor]],
    training: Training,
    generator: torch.Generator,
) -> int:
    """Minimise the cross-entropy on an endless stream of epochs.

    :param draw: Makes the pixels and labels of one epoch: colours, turns and shifts are drawn anew in each.
    :return: The number of steps taken.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=training.learning_rate, weight_decay=0.01)
    schedule = _schedule(optimiser, training)
    model.train()
    running = math.log(2)  # the loss of a guess between two labels, so that a lucky start doesn't end it
    for step, (pixels, labels) in enumerate(_batches(draw, training.batch, generator), start=1):
        loss = functional.cross_entropy(model(pixel_values=pixels).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        running += (1 - _MEMORY) * (loss.item() - running)
        if step == training.steps or (training.enough is not None and running <= training.enough):
            break
    model.eval()
    return step


def _schedule(optimiser: torch.optim.Optimizer, training: Training) -> torch.optim.lr_scheduler.LRScheduler:
    if training.enough is None:
        rate = training.learning_rate
        return torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=training.steps, pct_start=0.1)
    return torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=0.1, total_iters=9)


def _batches(
    draw: Callable[[], tuple[Tensor, Tensor]], size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        pixels, labels = draw()
        for rows in torch.randperm(len(labels), generator=generator).split(size):
            yield pixels[rows], labels[rows]


@torch.no_grad()
def logits(model: ViTForImageClassification, pixels: Tensor) -> Tensor:
    """Return the model's outputs, ``(n, labels)``."""
    return model(pixel_values=pixels).logits


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Return the share of inputs whose largest logit is the label's, in percent."""
    return 100 * (outputs.argmax(dim=1) == labels).float().mean().item()


def cosine(first: Tensor, second: Tensor) -> float:
    """Return the mean cosine similarity of two models' outputs over inputs: eq. 14, on one task's inputs."""
    return functional.cosine_similarity(first, second, dim=1).mean().item()
