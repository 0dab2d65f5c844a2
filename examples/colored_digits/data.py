"""Handwritten digits in red and green: the images, the tasks on them, and their splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["SIDE", "Digits", "Split", "Task", "coloured", "load_splits", "random_colours"]

SIDE = 32
"""Width and height of an image, in pixels."""

_SHARES = (0.6, 0.15)  # of all images: for training and validation; the rest is the test
_SHIFT = 1.5  # pixels
_TURN = 10.0  # degrees


@dataclass(frozen=True)
class Task:
    """Parity of the digit, on images whose colour tells it with a given reliability.

    :param name: As in tables and file names.
    :param share: Share of the images whose colour agrees with the label: red for odd, green for even digits.
    """

    name: str
    share: float


@dataclass(frozen=True)
class Digits:
    """Grey images of digits.

    :param images: ``(n, SIDE, SIDE)``, float32 from 0 (paper) to 1 (ink).
    :param digits: ``(n,)``, int64 from 0 to 9.
    """

    images: Tensor
    digits: Tensor

    def __len__(self) -> int:
        return len(self.digits)


@dataclass(frozen=True)
class Split:
    """The same digits for all tasks: no test image is seen in any training, pre-training included."""

    train: Digits
    validation: Digits
    test: Digits


def load_splits(seed: int) -> Split:
    """Load scikit-learn's 1797 digits, enlarge them from 8 x 8, and split them at random."""
    from sklearn.datasets import load_digits

    found = load_digits()
    small = torch.from_numpy(np.asarray(found.images, dtype=np.float32) / 16)
    large = functional.interpolate(small[:, None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
    digits = torch.from_numpy(np.asarray(found.target, dtype=np.int64))
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    first, second = (round(sum(_SHARES[: i + 1]) * len(order)) for i in range(2))
    parts = order[:first], order[first:second], order[second:]
    return Split(*(Digits(large[part], digits[part]) for part in parts))


def coloured(part: Digits, task: Task, generator: torch.Generator, *, moved: bool) -> tuple[Tensor, Tensor]:
    """Colour images for a task; of each parity, exactly the share of it (rounded) has the agreeing colour.

    :param moved: Shift and turn each image by a random amount.
    :return: Pixels ``(n, 3, SIDE, SIDE)`` from -1 to 1, and labels ``(n,)``: 1 for odd digits.
    """
    labels = part.digits % 2
    is_red = torch.empty(len(part), dtype=torch.bool)
    for label in (0, 1):
        places = torch.nonzero(labels == label)[:, 0]
        places = places[torch.randperm(len(places), generator=generator)]
        agreeing = round(task.share * len(places))
        is_red[places[:agreeing]] = bool(label)
        is_red[places[agreeing:]] = not label
    return _painted(part.images, is_red, generator, moved=moved), labels


def random_colours(part: Digits, generator: torch.Generator, *, moved: bool) -> tuple[Tensor, Tensor]:
    """Return images whose colours are drawn at random, and their digits: what pre-training sees."""
    is_red = torch.rand(len(part), generator=generator) < 0.5
    return _painted(part.images, is_red, generator, moved=moved), part.digits


def _painted(images: Tensor, is_red: Tensor, generator: torch.Generator, *, moved: bool) -> Tensor:
    images = _moved(images, generator) if moved else images
    inks = torch.zeros(len(images), 3, 1, 1)
    inks[is_red, 0] = 1.0
    inks[~is_red, 1] = 1.0
    return images[:, None] * inks * 2 - 1


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn and shift each image, by amounts drawn uniformly."""
    draws = torch.rand(len(images), 3, generator=generator) * 2 - 1
    angles, shifts = torch.deg2rad(draws[:, 0] * _TURN), draws[:, 1:] * _SHIFT * 2 / SIDE
    turns = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], dim=1).view(-1, 2, 2)
    grid = functional.affine_grid(
        torch.cat([turns, shifts[:, :, None]], dim=2), [len(images), 1, SIDE, SIDE], align_corners=False
    )
    return functional.grid_sample(images[:, None], grid, align_corners=False)[:, 0]
