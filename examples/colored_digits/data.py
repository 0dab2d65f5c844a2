"""Handwritten digits in coloured ink: the images, the tasks on them, and their splits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["SIDE", "Digits", "Split", "Task", "coloured", "four_colours", "load_splits"]

SIDE = 32
"""Width and height of an image, in pixels."""

_SHARES = (0.6, 0.15)  # of all images: for training and validation; the rest is the test
_SHIFT = 1.5  # pixels
_TURN = 10.0  # degrees


@dataclass(frozen=True)
class Task:
    """Parity of the digit, on images whose ink tells it with a given reliability.

    An ink is a point of the square from -1 to 1: its first coordinate goes from green to red, its second from no blue
    to full blue. A task is a direction in this square: inks of odd digits lie on one side, of even ones on the other.

    :param name: As in tables and file names.
    :param share: Share of the images whose ink lies on the side of their label.
    :param angle: Of the task's direction, in degrees: 0 is from green to red, 90 from no blue to full blue.
    :param along: Distance of every ink from the border of both sides.
    :param across: At right angles to the direction, inks are spread evenly from minus to plus this.
    """

    name: str
    share: float
    angle: float = 0.0
    along: float = 1.0
    across: float = 1.0

    @property
    def direction(self) -> tuple[float, float]:
        """Unit vector towards the inks of odd digits."""
        return math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))


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
    """Ink images for a task; of each parity, exactly the share of it (rounded) lies on the side of its label.

    :param moved: Shift and turn each image by a random amount.
    :return: Pixels ``(n, 3, SIDE, SIDE)`` from -1 to 1, and labels ``(n,)``: 1 for odd digits.
    """
    labels = part.digits % 2
    sides = torch.where(labels == 1, 1.0, -1.0)
    for label in (0, 1):
        places = torch.nonzero(labels == label)[:, 0]
        places = places[torch.randperm(len(places), generator=generator)]
        sides[places[round(task.share * len(places)) :]] *= -1
    offsets = task.across * (2 * torch.rand(len(part), generator=generator) - 1)
    cos, sin = task.direction
    inks = torch.stack([task.along * sides * cos - offsets * sin, task.along * sides * sin + offsets * cos], dim=1)
    return _painted(part.images, inks, generator, moved=moved), labels


def four_colours(part: Digits, generator: torch.Generator, *, moved: bool) -> tuple[Tensor, Tensor]:
    """Ink each image in green, red, cyan or magenta, of any strength from 0.3 to 1, at random: what pre-training sees.

    :return: Pixels, and labels: the digit plus 10 times the place of its colour, 40 in all.
    """
    colours = torch.randint(4, (len(part),), generator=generator)
    signs = torch.stack([colours % 2, colours // 2], dim=1) * 2.0 - 1
    strengths = 0.3 + 0.7 * torch.rand(len(part), 2, generator=generator)
    return _painted(part.images, signs * strengths, generator, moved=moved), part.digits + 10 * colours


def _painted(images: Tensor, inks: Tensor, generator: torch.Generator, *, moved: bool) -> Tensor:
    """Colour images with the inks ``(n, 2)`` of a task's square."""
    images = _moved(images, generator) if moved else images
    colours = (1 + torch.stack([inks[:, 0], -inks[:, 0], inks[:, 1]], dim=1)) / 2
    return images[:, None] * colours[:, :, None, None] * 2 - 1


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn and shift each image, by amounts drawn uniformly."""
    draws = torch.rand(len(images), 3, generator=generator) * 2 - 1
    angles, shifts = torch.deg2rad(draws[:, 0] * _TURN), draws[:, 1:] * _SHIFT * 2 / SIDE
    turns = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], dim=1).view(-1, 2, 2)
    grid = functional.affine_grid(
        torch.cat([turns, shifts[:, :, None]], dim=2), [len(images), 1, SIDE, SIDE], align_corners=False
    )
    return functional.grid_sample(images[:, None], grid, align_corners=False)[:, 0]
