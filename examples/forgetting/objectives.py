"""Negation beside training that forgets (`finetune --objective`), at equal forgetting.

What takes the forgotten text away, vectors or the change that a training made to the tuned model, is multiplied by an
alpha at which the text's loss is the base's. Then all are compared by what they cost other texts, what attacks bring
back, and seconds of the processor.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import taskarith
from examples.forgetting import operators
from examples.forgetting.learn import CHOICE, ROLES, Pupil
from examples.forgetting.operators import PLAIN, Outcome, Trial, Values
from taskarith.attacks.recovery import Outcome as Attacked
from taskarith.demo.scale import FULL
from taskarith.edit.read_recipe import parse_recipe

__all__ = [
    "BASE",
    "NEGATIONS",
    "OBJECTIVES",
    "RATES",
    "WAYS",
    "WEIGHTS",
    "Comparison",
    "Defence",
    "Setting",
    "attempt",
    "begin",
    "choose",
    "settings_of",
    "settings_table",
    "table",
    "try_setting",
]

BASE = "the base, which never knew"
NEGATIONS: dict[str, Sequence[str]] = {PLAIN: ROLES[:1], "project": ROLES, "add 0.4 of the kept, MLP only": ROLES}
"""Operators to compare with, and the texts whose vectors each needs."""

OBJECTIVES = ("ascent", "graddiff", "kl", "npo", "simnpo", "rmu")

RATES = (3e-4, 1e-3)
"""Learning rates to choose from: that of the vectors, and three times as much; smaller ones do not reach the loss."""

WEIGHTS = {"simnpo": (1.0, 8.0), "rmu": (1.0, 100.0)}
"""Retain weights to choose from, where papers do not agree on 1: SimNPO has 8 in proportion, RMU up to 1200."""

_STEERING = 200.0
"""Length of RMU's vector: twice that of SmolLM2-135M's hidden states there."""

WAYS = (*NEGATIONS, *OBJECTIVES)
_FORGOTTEN, *_KEPT = ROLES
_UNSEEN = "unseen"
_NEVER_LEARNED = CHOICE["irrelevant"]
"""A text in no role of ``REPORT``."""

_TITLES = ("way", "seconds", "alpha", "forgotten: loss", "ROUGE-L", "aligned: cost")
_TITLES += ("irrelevant: cost", "unseen: cost", "back by relearning", "back by 4 bits")

_GIVEN, _STEPS = 4, 8
"""What the attacker relearns on, half of the forgotten text's blocks of a quarter of their length, and how long."""


@dataclass(frozen=True)
class Defence:
    """What a way to forget takes, and how it stands the attacks.

    :param seconds: Of the processor, for the training that it needs.
    :param relearned: Share of what it took away that comes back by training on half of the text: by the loss of the
        other half.
    :param quantised: Likewise by rounding the weights to 4 bits: by the loss of all of it.
    """

    seconds: float
    relearned: float
    quantised: float


@dataclass(frozen=True)
class Comparison:
    """All ways on one model.

    :param outcome: Losses and ROUGE-L of each.
    :param defences: By way, and of the base.
    """

    outcome: Outcome
    defences: dict[str, Defence] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """How an objective trains.

    :param objective: Its name.
    :param rate: Learning rate.
    :param weight: Retain weight.
    """

    objective: str
    rate: float
    weight: float = 1.0

    def __str__(self) -> str:
        return f"{self.objective} at {self.rate:g}" + ("" if self.weight == 1 else f", retain weight {self.weight:g}")

    @property
    def options(self) -> dict[str, Any]:
        """Options of ``finetune``."""
        own = {"rmu_steering": _STEERING} if self.objective == "rmu" else {}
        return {"objective": self.objective, "learning_rate": self.rate, "retain_weight": self.weight, **own}


def settings_of(objective: str) -> list[Setting]:
    """Return what an objective may choose from."""
    return [Setting(objective, *pair) for pair in product(RATES, WEIGHTS.get(objective, (1.0,)))]


def try_setting(pupil: Pupil, setting: Setting, folder: Path, outcome: Outcome) -> Trial:
    """Measure what a training costs.

    :param pupil: The model.
    :param folder: For the trained model, which does not stay.
    :param outcome: What ``operators.begin`` measured.
    """
    with _trained(pupil, setting, folder) as (recipe, _):
        alpha = _equal_alpha(pupil, recipe, outcome, 1.0)
        losses = operators.measure_losses(pupil, pupil.tuned, ROLES, recipe, alpha)
        return Trial(alpha, losses, math.nan)  # continuations do not count here


def choose(outcome: Outcome, objective: str) -> Setting:
    """Return the setting that costs the kept texts least, among those that forget as much as wanted."""
    return min(settings_of(objective), key=lambda one: (not outcome.is_equal(str(one)), _cost(outcome, str(one))))


def begin(pupil: Pupil) -> Comparison:
    """Measure the base and the tuned model, and attack the base, which knows what nobody took away."""
    comparison = Comparison(operators.begin(_asked_more(pupil)))
    comparison.defences[BASE] = Defence(0.0, *_attacked(pupil, pupil.base))
    return comparison


def attempt(pupil: Pupil, way: str, chosen: Outcome, folder: Path, comparison: Comparison) -> None:
    """Add one of ``WAYS`` to the comparison.

    :param pupil: The model and its vectors.
    :param chosen: From which ``choose`` takes the setting of an objective, and the search for alpha its first one.
    :param folder: For models, which do not stay.
    """
    if way in NEGATIONS:
        recipe, seconds = operators.recipe_of(pupil, [], folder, way), [pupil.seconds[role] for role in NEGATIONS[way]]
        trial = _at_equal(_asked_more(pupil), recipe, comparison.outcome, 1.0)
        comparison.defences[way] = _defend(pupil, recipe, trial, sum(seconds), folder)
    else:
        setting = choose(chosen, way)
        with _trained(pupil, setting, folder) as (recipe, seconds):
            first = chosen.trials[str(setting)].alpha
            trial = _at_equal(_asked_more(pupil), recipe, comparison.outcome, first)
            comparison.defences[way] = _defend(pupil, recipe, trial, seconds, folder)
    comparison.outcome.trials[way] = trial


def _defend(pupil: Pupil, recipe: Values, trial: Trial, seconds: float, folder: Path) -> Defence:
    edited, edit = folder / "edited", parse_recipe(recipe).edit()
    taskarith.apply(
        pupil.tuned,
        operands=edit.operands,
        scale=edit.scale,
        method=edit.method,
        alpha=trial.alpha,
        output_dir=edited,
        overwrite=True,
    )
    shares = _attacked(pupil, str(edited))
    shutil.rmtree(edited)
    return Defence(seconds, *shares)


@contextmanager
def _trained(pupil: Pupil, setting: Setting, folder: Path) -> Generator[tuple[Values, float]]:
    """Give the change that a training with an objective makes to the tuned model, and its seconds."""
    path, start = folder / "trained", time.process_time()
    taskarith.finetune(
        pupil.tuned,
        [pupil.lesson.data[_FORGOTTEN]],
        path,
        overwrite=True,
        retain=[] if setting.objective == "ascent" else [pupil.lesson.data[role] for role in _KEPT],
        **setting.options,
        block_size=pupil.lesson.block_size,
        num_train_epochs=pupil.lesson.epochs,
        per_device_train_batch_size=FULL.batch_size,
        seed=pupil.lesson.seed,
    )
    yield {"add": [str(path)]}, time.process_time() - start
    shutil.rmtree(path)


def _at_equal(pupil: Pupil, recipe: Values, outcome: Outcome, alpha: float) -> Trial:
    return operators.measure(pupil, pupil.tuned, recipe, _equal_alpha(pupil, recipe, outcome, alpha), prompts=8)


def _equal_alpha(pupil: Pupil, recipe: Values, outcome: Outcome, alpha: float) -> float:
    least, wanted = (trial.losses[_FORGOTTEN] for trial in (outcome.tuned, outcome.base))
    return operators.equal_alpha(pupil, recipe, least, wanted, alpha)


def _attacked(pupil: Pupil, model: str) -> tuple[float, float]:
    """Return the shares that come back by relearning, and by 4 bits (NormalFloat)."""
    found = taskarith.attack(
        model,
        pupil.lesson.data[_FORGOTTEN],
        before=pupil.tuned,
        attacks=["relearn", "quantise"],
        relearn_samples=_GIVEN,
        relearn_steps=[_STEPS],
        relearn_epochs=0,
        bits=["nf4"],
        prompts=4,
        continuation_tokens=1,  # losses are looked at
        block_size=pupil.lesson.block_size // 4,
    )
    outcomes = {(one.attack, one.view, one.steps): one for one in found.outcomes}
    edited, relearned = (outcomes["relearn", "held out", steps] for steps in (0, _STEPS))
    whole, quantised = outcomes["none", "all", 0], outcomes["quantise", "all", 0]
    return _returned(edited, relearned), _returned(whole, quantised)


def _returned(edited: Attacked, attacked: Attacked) -> float:
    """Return the share of what the edit took away, by the loss; of so few blocks ``attack`` itself does not say it."""
    before, after = edited.before["loss"], edited.cells["loss"].value
    return (attacked.cells["loss"].value - after) / (before - after)


def _asked_more(pupil: Pupil) -> Pupil:
    """Return it with a text to measure that it did not learn."""
    return replace(pupil, lesson=replace(pupil.lesson, texts={**pupil.lesson.texts, _UNSEEN: _NEVER_LEARNED}))


def _cost(outcome: Outcome, name: str) -> float:
    return sum(outcome.cost(name, role) for role in _KEPT)


def settings_table(outcome: Outcome) -> str:
    """Return what each setting costs the kept texts, in Markdown; what is chosen is bold."""
    lines = ["| objective | alpha | forgotten: loss | kept texts: cost |", "|---|---:|---:|---:|"]
    for setting in (one for objective in OBJECTIVES for one in settings_of(objective)):
        name, trial = str(setting), outcome.trials[str(setting)]
        shown = f"**{name}**" if setting == choose(outcome, setting.objective) else name
        cells = [shown, f"{trial.alpha:.2f}", f"{trial.losses[_FORGOTTEN]:.2f}", f"{_cost(outcome, name):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table(comparisons: Sequence[Comparison]) -> str:
    """Return all ways in Markdown, means over seeds, what costs least last; attacks for each seed."""
    outcomes = [one.outcome for one in comparisons]
    lines = [operators.states(outcomes), "", f"| {' | '.join(_TITLES)} |", "|---" + "|---:" * (len(_TITLES) - 1) + "|"]
    lines.append(_line(BASE, ["" for _ in _TITLES[3:]], comparisons))
    for way in sorted(WAYS, key=lambda way: -mean(_cost(one, way) for one in outcomes)):
        seconds = mean(one.defences[way].seconds for one in comparisons)
        cells = [f"{seconds:.0f}", *operators.cells(outcomes, way)]
        cells.append(f"{mean(one.cost(way, _UNSEEN) for one in outcomes):.2f}")
        lines.append(_line(way, cells, comparisons))
    return "\n".join(lines)


def _line(way: str, cells: Sequence[str], comparisons: Sequence[Comparison]) -> str:
    defences = [one.defences[way] for one in comparisons]
    shares = [[one.relearned for one in defences], [one.quantised for one in defences]]
    attacks = [" / ".join(f"{one:.0%}" for one in seeds) for seeds in shares]
    return f"| {' | '.join([way, *cells, *attacks])} |"
