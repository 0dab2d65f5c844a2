"""Every operator of forgetting at equal forgetting: what it costs the texts that are to be kept.

Each operator's alpha is set so that the forgotten text's loss is that of the base, which never saw it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import taskarith
from examples.forgetting.learn import ROLES, Pupil
from taskarith.edit.read_recipe import parse_recipe
from taskarith.evaluation.score import Number

__all__ = [
    "NEAR",
    "OPERATORS",
    "PLAIN",
    "Outcome",
    "Trial",
    "Values",
    "attempt",
    "begin",
    "cells",
    "equal_alpha",
    "measure",
    "measure_losses",
    "recipe_of",
    "states",
    "table",
]

PLAIN = "plain negation"
_FORGOTTEN, *_KEPT = ROLES
NEAR = 0.05
"""How near the forgotten text's loss has to come to the base's, in nats."""

_MOST_STEPS, _LARGEST = 9, 8.0
_MLP = {"*": 0, "layers.*.mlp": 1}

Values = dict[str, Any]
"""A recipe as a map, without alpha."""


@dataclass(frozen=True)
class _Material:
    """What operators may use.

    :param vectors: The task vector of each role.
    :param siblings: Vectors of the same forgotten text, learned with other seeds.
    :param weights: Returns the weights file of a kind that `taskarith importance` knows, written on first use.
    """

    vectors: Mapping[str, str]
    siblings: Sequence[str]
    weights: Callable[[str], str]

    def negate(self, **more: object) -> Values:
        return {"negate": [self.vectors[_FORGOTTEN]], **more}

    def add(self, coefficient: float, **more: object) -> Values:
        return self.negate(add=[f"{self.vectors[role]}:{coefficient:g}" for role in _KEPT], **more)

    def project(self, **more: object) -> Values:
        return self.negate(method="project", protect=[self.vectors[role] for role in _KEPT], **more)


OPERATORS: dict[str, Callable[[_Material], Values]] = {
    PLAIN: lambda given: given.negate(),
    "without embeddings": lambda given: given.negate(scale={"embed_tokens": 0}),
    "attention only": lambda given: given.negate(scale={"*": 0, "layers.*.self_attn": 1}),
    "MLP only": lambda given: given.negate(scale=_MLP),
    "project": lambda given: given.project(),
    "project, MLP only": lambda given: given.project(scale=_MLP),
    "perta, gradients": lambda given: given.negate(method="perta", weights=given.weights("gradient")),
    "perta, Fisher": lambda given: given.negate(method="perta", weights=given.weights("fisher")),
    "negmerge": lambda given: {"negate": [given.vectors[_FORGOTTEN], *given.siblings], "method": "negmerge"},
    "rows, density 0.25": lambda given: given.negate(method="rows", density=0.25),
    "low_rank, rank 64": lambda given: given.negate(method="low_rank", rank=64),
    "ties, density 0.2": lambda given: given.negate(method="ties", density=0.2),
    "dare, density 0.1": lambda given: given.negate(method="dare_linear", density=0.1),
    "add 0.2 of the kept": lambda given: given.add(0.2),
    "add 0.4 of the kept": lambda given: given.add(0.4),
    "add 0.4 of the kept, MLP only": lambda given: given.add(0.4, scale=_MLP),
    "add 0.6 of the kept": lambda given: given.add(0.6),
}
"""Names and recipes. What is added is multiplied by alpha, too."""


@dataclass(frozen=True)
class Trial:
    """One operator.

    :param alpha: At which the forgotten text's loss is the base's, or comes nearest.
    :param losses: Of each text there, in nats a token.
    :param rouge: ROUGE-L of continuations of the forgotten text there.
    """

    alpha: float
    losses: dict[str, float]
    rouge: float


@dataclass(frozen=True)
class Outcome:
    """All operators on one model.

    :param seed: Of training.
    :param base: The model that learned nothing.
    :param tuned: The model that learned all texts.
    :param trials: By operator.
    """

    seed: int
    base: Trial
    tuned: Trial
    trials: dict[str, Trial] = field(default_factory=dict)

    def cost(self, operator: str, role: str) -> float:
        """Return what the edit costs a text, in nats."""
        return self.trials[operator].losses[role] - self.tuned.losses[role]

    def share(self, operator: str) -> float:
        """Return the cost to all kept texts, as a share of what plain negation costs them."""
        costs = [sum(self.cost(name, role) for role in _KEPT) for name in (operator, PLAIN)]
        return costs[0] / costs[1]

    def is_equal(self, operator: str) -> bool:
        """Return whether as much is forgotten as wanted."""
        return abs(self.trials[operator].losses[_FORGOTTEN] - self.base.losses[_FORGOTTEN]) <= NEAR


def begin(pupil: Pupil) -> Outcome:
    """Measure the base and the tuned model."""
    return Outcome(pupil.lesson.seed, measure(pupil, pupil.base, None, 0.0), measure(pupil, pupil.tuned, None, 0.0))


def recipe_of(pupil: Pupil, siblings: Sequence[str], folder: Path, operator: str) -> Values:
    """Return the edit that takes the forgotten text away by an operator.

    :param pupil: The model and its vectors.
    :param siblings: Vectors of the same forgotten text, learned with other seeds.
    :param folder: For files of weights.
    :param operator: One of ``OPERATORS``.
    """

    def weights(kind: str) -> str:
        path, kept = folder / f"{kind}.safetensors", folder / "kept.txt"
        if not path.exists():
            kept.write_text("\n".join(pupil.lesson.texts[role].read_text("utf-8") for role in _KEPT), "utf-8")
            texts = pupil.lesson.data[_FORGOTTEN], str(kept)
            taskarith.importance(pupil.tuned, *texts, path, kind=kind, block_size=pupil.lesson.block_size)
        return str(path)

    return OPERATORS[operator](_Material(pupil.vectors, siblings, weights))


def attempt(pupil: Pupil, siblings: Sequence[str], folder: Path, outcome: Outcome, operator: str) -> Trial:
    """Take the forgotten text from the tuned model by an operator, as far as the base's loss.

    :param outcome: What ``begin`` measured; for the others see ``recipe_of``.
    """
    recipe = recipe_of(pupil, siblings, folder, operator)
    alpha = equal_alpha(pupil, recipe, outcome.tuned.losses[_FORGOTTEN], outcome.base.losses[_FORGOTTEN])
    return measure(pupil, pupil.tuned, recipe, alpha)


def equal_alpha(pupil: Pupil, recipe: Values, least: float, wanted: float, alpha: float = 1.0) -> float:
    """Return the alpha at which the forgotten text has the wanted loss: by secants, within what is known.

    :param least: Loss at alpha 0.
    :param alpha: To begin with.
    """
    below, above = (0.0, least), None
    for _ in range(_MOST_STEPS):
        loss = measure_losses(pupil, pupil.tuned, [_FORGOTTEN], recipe, alpha)[_FORGOTTEN]
        if abs(loss - wanted) <= NEAR / 2 or alpha >= _LARGEST:
            break
        below, above = ((alpha, loss), above) if loss < wanted else (below, (alpha, loss))
        if above is None:
            alpha = min(1.6 * alpha, _LARGEST)
        else:
            share = (wanted - below[1]) / (above[1] - below[1])
            alpha = below[0] + min(max(share, 0.1), 0.9) * (above[0] - below[0])
    return alpha


def measure(pupil: Pupil, model: str, recipe: Values | None, alpha: float, prompts: int = 16) -> Trial:
    """Measure all texts on a model, after an edit if there is one, and continuations of the forgotten text."""
    losses = measure_losses(pupil, model, list(pupil.lesson.texts), recipe, alpha)
    scores = _evaluate(pupil, model, [_FORGOTTEN], recipe, alpha, prompts)
    return Trial(alpha, losses, scores[_FORGOTTEN]["rouge_l_f1"].value)


def measure_losses(
    pupil: Pupil, model: str, roles: Sequence[str], recipe: Values | None, alpha: float
) -> dict[str, float]:
    """Return the loss of some texts, in nats a token."""
    scores = _evaluate(pupil, model, roles, recipe, alpha, prompts=0)
    return {role: scores[role]["loss"].value for role in roles}


def _evaluate(
    pupil: Pupil, model: str, roles: Sequence[str], recipe: Values | None, alpha: float, prompts: int
) -> Mapping[str, Mapping[str, Number]]:
    found = taskarith.evaluate(
        [model],
        {role: pupil.lesson.data[role] for role in roles},
        recipe=None if recipe is None else parse_recipe(recipe),
        alphas=[1.0 if recipe is None else alpha],
        prompts=prompts,
        continuation_tokens=32,
        block_size=pupil.lesson.block_size,
    )
    (scores,) = found.scores.by_text.values()
    return scores


def table(outcomes: Sequence[Outcome]) -> str:
    """Return costs of all operators in Markdown, means over seeds, the best last."""
    lines = [
        states(outcomes),
        "",
        "| operator | alpha | forgotten: loss | ROUGE-L | aligned: cost | irrelevant: cost | share of plain |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in sorted(outcomes[0].trials, key=lambda name: -mean(one.share(name) for one in outcomes)):
        shares = " / ".join(f"{round(100 * one.share(name))}%" for one in outcomes)
        lines.append(f"| {name} | {' | '.join(cells(outcomes, name))} | {shares} |")
    return "\n".join(lines)


def states(outcomes: Sequence[Outcome]) -> str:
    """Return what base and tuned model know of the forgotten text, in a line."""
    known = []
    for name in ("base", "tuned"):
        trials = [getattr(one, name) for one in outcomes]
        loss, rouge = mean(trial.losses[_FORGOTTEN] for trial in trials), mean(trial.rouge for trial in trials)
        known.append(f"{name} {loss:.2f} and {rouge:.2f}")
    seeds = ", ".join(str(one.seed) for one in outcomes)
    return f"Forgotten text, loss and ROUGE-L: {', '.join(known)}. Seeds {seeds}."


def cells(outcomes: Sequence[Outcome], name: str) -> list[str]:
    """Return alpha, loss and ROUGE-L of the forgotten text, and costs of the kept ones; means over seeds."""
    trials = [one.trials[name] for one in outcomes]
    found = [f"{mean(trial.alpha for trial in trials):.2f}"]
    found.append(f"{mean(trial.losses[_FORGOTTEN] for trial in trials):.2f}")
    found[-1] += "" if all(one.is_equal(name) for one in outcomes) else " (not equal)"
    found.append(f"{mean(trial.rouge for trial in trials):.2f}")
    return found + [f"{mean(one.cost(name, role) for one in outcomes):.2f}" for role in _KEPT]
