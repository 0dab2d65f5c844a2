"""The choice of an edit by its numbers: two rules, the cliff and the Pareto front."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from taskarith.evaluation.metrics.intervals import Estimate

__all__ = ["CLIFF_RISE", "CLIFF_SPEED", "ROUGE_MARGIN", "Point", "Rule", "TextScore", "find_cliff", "pareto_front"]

ROUGE_MARGIN = 0.03
"""A text counts as forgotten if its ROUGE-L F1 is at most this much above that of a model that never knew it."""
CLIFF_SPEED = 3.0
"""How many times faster than before the loss must rise; a loss that grows with alpha squared stays below 3."""
CLIFF_RISE = 0.1
"""Minimum total rise of the loss at a cliff, in nats."""
_SHORTFALL = 10.0  # penalty in a search per missing nat, more than forgetting a nat can ever cost


@dataclass(frozen=True)
class TextScore:
    """Scores of a model on one text.

    :param loss: Nats per token.
    :param rouge: ROUGE-L F1 of its continuations; None without prompts.
    """

    loss: float
    rouge: float | None = None


@dataclass(frozen=True)
class Point:
    """Scores of one edit.

    :param alpha: Factor of its coefficients.
    :param forget: Scores of the forget sets.
    :param keep: Scores of the retain sets.
    :param kl: KL(unedited || edited) on retain sets, in nats per token; 0 if not measured.
    """

    alpha: float
    forget: Mapping[str, TextScore]
    keep: Mapping[str, TextScore]
    kl: float = 0.0

    @property
    def forget_loss(self) -> float:
        """Mean loss of the forget sets, all with equal weight."""
        return _mean(self.forget)

    @property
    def keep_loss(self) -> float:
        """Mean loss of the retain sets, all with equal weight."""
        return _mean(self.keep)


@dataclass(frozen=True)
class Rule:
    """One of two rules that choose an edit.

    ``reference``: the smallest alpha at which each forget set has at rise the loss of its level, and at most its
    ROUGE-L + 0.03; of equal alphas the one with the lowest retain loss. Whether the samples show that most is forgotten
    is checked separately: see ``remaining``. ``budget``: the highest forget loss while the mean retain loss rises by at
    most the budget.

    :param level: Scores by text of a model that never knew them; None for ``budget`` or no rule.
    :param budget: Allowed rise in nats.
    """

    level: Mapping[str, TextScore] | None = None
    budget: float | None = None

    @property
    def rule(self) -> str | None:
        """Name of the rule, or None."""
        if self.budget is not None:
            return "budget"
        return None if self.level is None else "reference"

    def is_met(self, point: Point, unedited: Point) -> bool:
        """Tell whether an edit meets the rule's condition."""
        return self.rule is not None and not self.missed(point, unedited)

    def missed(self, point: Point, unedited: Point) -> list[str]:
        """Return, in words, by which numbers an edit fails to meet the rule's condition; none if it meets it."""
        if self.budget is not None:
            rise = point.keep_loss - unedited.keep_loss
            met = rise <= self.budget
            return [] if met else [f"the mean retain loss rises by {rise:.3f}, and {self.budget:g} is allowed"]
        levels = (self.level or {}).items()
        return [words for text, level in levels for words in _missed(text, point.forget[text], level)]

    def choose(self, points: Sequence[Point], unedited: Point) -> int | None:
        """Return the index of the chosen edit, or None."""
        candidates = [index for index, point in enumerate(points) if self.is_met(point, unedited)]
        if self.budget is not None:
            return max(candidates, key=lambda i: (points[i].forget_loss, -points[i].keep_loss), default=None)
        return min(candidates, key=lambda i: (abs(points[i].alpha), points[i].keep_loss), default=None)

    def objective(self, point: Point, unedited: Point, kl: float = 0.0) -> float:
        """Return the function that a search minimises: the same rule on losses, with a penalty for any shortfall.

        :param kl: Weight of the KL divergence on retain sets.
        """
        rise = point.keep_loss - unedited.keep_loss
        if self.budget is not None:
            return _SHORTFALL * max(0.0, rise - self.budget) - point.forget_loss + kl * point.kl
        shortfall = sum(max(0.0, score.loss - point.forget[text].loss) for text, score in (self.level or {}).items())
        return _SHORTFALL * shortfall + rise + kl * point.kl


def _mean(scores: Mapping[str, TextScore]) -> float:
    return sum(score.loss for score in scores.values()) / len(scores)


def _missed(text: str, score: TextScore, level: TextScore) -> Iterator[str]:
    if not score.loss >= level.loss:
        yield f"the loss of {text} is {score.loss:.3f}, and at least {level.loss:.3f} is wanted"
    if score.rouge is not None and level.rouge is not None and not score.rouge <= level.rouge + ROUGE_MARGIN:
        yield f"the ROUGE-L of {text} is {score.rouge:.3f}, and at most {level.rouge + ROUGE_MARGIN:.3f} is wanted"


def find_cliff(alphas: Sequence[float], losses: Sequence[float], steps: Sequence[Estimate]) -> int | None:
    """Return the index of the first alpha at a cliff, or None.

    At a cliff the retain loss has risen at rise 0.1 nats since the first alpha, and its last step rises, per unit of
    alpha, more than 3 times as fast as the median of at rise two earlier steps, by the lower end of its 95% interval if
    it has one.

    :param alphas: Moving away from 0, which comes first.
    :param losses: Mean retain loss at each alpha.
    :param steps: Difference of that loss to the previous alpha, for all but the first.
    """
    widths = [abs(after - before) for before, after in itertools.pairwise(alphas)]
    speeds = [step.value / width for step, width in zip(steps, widths, strict=True)]
    for index in range(2, len(steps)):
        step = steps[index]
        rise = step.value if step.low is None else step.low
        median_speed = max(median(speeds[:index]), 0.0)
        if rise / widths[index] > CLIFF_SPEED * median_speed and losses[index + 1] - losses[0] >= CLIFF_RISE:
            return index + 1
    return None


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that no other dominates, ordered by forgetting.

    :param points: Finite pairs of forget loss (higher is better) and retain loss (lower is better).
    """
    front, best = [], math.inf
    for index in sorted(range(len(points)), key=lambda i: (-points[i][0], points[i][1])):
        if points[index][1] < best:
            front.append(index)
            best = points[index][1]
    return front[::-1]
