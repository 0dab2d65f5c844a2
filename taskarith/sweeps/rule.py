"""Which edit of many: two rules, the cliff and the Pareto front, on numbers alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from taskarith.evaluation.metrics.intervals import Estimate

__all__ = ["CLIFF_RISE", "CLIFF_SPEED", "ROUGE_MARGIN", "Point", "Rule", "TextScore", "find_cliff", "pareto_front"]

ROUGE_MARGIN = 0.03
"""A text counts as forgotten where ROUGE-L F1 is at most this much above that of a model that never knew it."""
CLIFF_SPEED = 3.0
"""How many times as fast as before the loss has to rise; a loss that grows as alpha squared stays below 3."""
CLIFF_RISE = 0.1
"""Nats that the loss must have risen in all to be at a cliff."""
_SHORTFALL = 10.0  # what a nat that is lacking costs in a search: more than forgetting a nat ever does


@dataclass(frozen=True)
class TextScore:
    """What a model gives to one text.

    :param loss: Nats a token.
    :param rouge: ROUGE-L F1 of its continuations; None without prompts.
    """

    loss: float
    rouge: float | None = None


@dataclass(frozen=True)
class Point:
    """One edit in numbers.

    :param alpha: What multiplies its coefficients.
    :param forget: Of the texts that are to be forgotten, by name.
    :param keep: Of all other texts.
    :param kl: KL(unedited || edited) on the texts to keep, nats a token; 0 where it is not asked for.
    """

    alpha: float
    forget: Mapping[str, TextScore]
    keep: Mapping[str, TextScore]
    kl: float = 0.0

    @property
    def forget_loss(self) -> float:
        """Mean of the losses of the texts to be forgotten, which all weigh the same."""
        return _mean(self.forget)

    @property
    def keep_loss(self) -> float:
        """Mean of the losses of the texts to keep."""
        return _mean(self.keep)


@dataclass(frozen=True)
class Rule:
    """What is wanted of an edit: one of two rules.

    ``reference``: the least alpha at which each text to be forgotten has at least the loss of its level, and at most
    its ROUGE-L + 0.03; of equal alphas the one with the least loss of what is kept. Whether the samples are enough to
    show that most is forgotten is asked beside it: see ``remaining``. ``budget``: the most loss of what is to be
    forgotten while the mean loss of what is kept rises by at most the budget.

    :param level: By text; of a model that never knew them. None: the rule is ``budget``, or there is none.
    :param budget: In nats.
    """

    level: Mapping[str, TextScore] | None = None
    budget: float | None = None

    @property
    def rule(self) -> str | None:
        """Name of the rule; None where nothing can be recommended."""
        if self.budget is not None:
            return "budget"
        return None if self.level is None else "reference"

    def is_met(self, point: Point, unedited: Point) -> bool:
        """Tell whether an edit does what the rule asks for at least."""
        if self.budget is not None:
            return point.keep_loss - unedited.keep_loss <= self.budget
        return self.level is not None and all(_at_level(point.forget[text], mark) for text, mark in self.level.items())

    def choose(self, points: Sequence[Point], unedited: Point) -> int | None:
        """Return the number of the edit that the rule chooses, or None."""
        able = [index for index, point in enumerate(points) if self.is_met(point, unedited)]
        if self.budget is not None:
            return max(able, key=lambda i: (points[i].forget_loss, -points[i].keep_loss), default=None)
        return min(able, key=lambda i: (abs(points[i].alpha), points[i].keep_loss), default=None)

    def objective(self, point: Point, unedited: Point, kl: float = 0.0) -> float:
        """Return what a search makes small: the same rule on losses, with a penalty for what is lacking.

        :param kl: Weight of the KL divergence on what is kept.
        """
        rise = point.keep_loss - unedited.keep_loss
        if self.budget is not None:
            return _SHORTFALL * max(0.0, rise - self.budget) - point.forget_loss + kl * point.kl
        lacking = sum(max(0.0, mark.loss - point.forget[text].loss) for text, mark in (self.level or {}).items())
        return _SHORTFALL * lacking + rise + kl * point.kl


def _mean(marks: Mapping[str, TextScore]) -> float:
    return sum(mark.loss for mark in marks.values()) / len(marks)


def _at_level(mark: TextScore, level: TextScore) -> bool:
    near = mark.rouge is None or level.rouge is None or mark.rouge <= level.rouge + ROUGE_MARGIN
    return mark.loss >= level.loss and near


def find_cliff(alphas: Sequence[float], losses: Sequence[float], steps: Sequence[Estimate]) -> int | None:
    """Return the number of the first alpha at a cliff, or None.

    There the loss of what is kept has risen at least 0.1 nats since the first alpha, and the step to it rises, per unit
    of alpha, more than 3 times as fast as the median of the earlier steps, of which there must be two: by the lower end
    of its 95% interval, where it has one.

    :param alphas: Away from 0, the first being 0.
    :param losses: Mean loss of the texts to keep at each.
    :param steps: Difference of that loss to the alpha before, for all but the first alpha.
    """
    widths = [abs(after - before) for before, after in itertools.pairwise(alphas)]
    speeds = [step.value / width for step, width in zip(steps, widths, strict=True)]
    for index in range(2, len(steps)):
        step = steps[index]
        least = step.value if step.low is None else step.low
        usual = max(median(speeds[:index]), 0.0)
        if least / widths[index] > CLIFF_SPEED * usual and losses[index + 1] - losses[0] >= CLIFF_RISE:
            return index + 1
    return None


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the numbers of the points that no other beats, by how much they forget.

    :param points: Loss of what is to be forgotten (more is better) and of what is kept (less is better), finite.
    """
    found, best = [], math.inf
    for index in sorted(range(len(points)), key=lambda i: (-points[i][0], points[i][1])):
        if points[index][1] < best:
            found.append(index)
            best = points[index][1]
    return found[::-1]
