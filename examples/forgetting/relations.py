"""Claims 6 and 7 on a real model: `relate` against what is measured.

Taking away the forgotten text's vector costs the aligned text more than the irrelevant one (Li et al., ICLR 2025,
table 3). `relate` says so beforehand, from the vectors and their base; the tuned model says what happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import correlation, mean

import taskarith
from examples.forgetting.learn import ROLES, Pupil

__all__ = ["Found", "relations", "table"]

_BLOCK = 64
"""Tokens of a test input, of the forecast and of what it is compared with."""

_OTHERS = ROLES[1:]


@dataclass(frozen=True)
class Found:
    """What was found with one seed.

    :param seed: Of training.
    :param lora: Whether the vectors are adapters.
    :param alphas: What the forgotten text's vector was multiplied by.
    :param tuned: Nats a token by role, before.
    :param losses: The same at each alpha.
    :param estimates: By name, of the forgotten text's task against the aligned and the irrelevant one; None where one
        is not defined.
    :param intervals: Of the estimate that decides, 95%.
    :param regimes: What `relate` calls the two pairs.
    :param forecast: Rise of the loss by role, at each alpha, in nats.
    """

    seed: int
    lora: bool
    alphas: list[float]
    tuned: dict[str, float]
    losses: list[dict[str, float]]
    estimates: dict[str, list[float | None]]
    intervals: list[tuple[float | None, float | None]]
    regimes: list[str]
    forecast: dict[str, list[float]]

    def column(self, role: str) -> dict[str, str]:
        """Return what is to be shown of the forgotten text's relation to another one, by title."""
        place = _OTHERS.index(role)
        cells = {name: _show(pair[place]) for name, pair in self.estimates.items()} | {"verdict": self.regimes[place]}
        for alpha, forecast, losses in zip(self.alphas, self.forecast[role], self.losses, strict=True):
            cells[f"rise at {alpha:g}: forecast"] = _show(forecast)
            cells[f"rise at {alpha:g}: measured"] = _show(losses[role] - self.tuned[role])
        return cells


def relations(pupil: Pupil) -> Found:
    """Relate the forgotten text's vector to the others, and take it from the tuned model."""
    vectors, data = [pupil.vectors[role] for role in ROLES], pupil.lesson.data
    related = taskarith.relate(vectors, model=pupil.base, data=data, block_size=_BLOCK)
    weights, outputs = related.weights, related.outputs
    if outputs is None:
        raise AssertionError("relate was given data")
    whole, rest = weights.group(), weights.without_embeddings()
    estimates: dict[str, list[float | None]] = {
        "weights": [whole.cosine(0, other) for other in (1, 2)],
        "weights without embeddings": [rest.cosine(0, other) for other in (1, 2)],
    }
    for measure, found in outputs.correlations.items():
        estimates[measure] = [None if one is None else one.value for one in (found[0, 1], found[0, 2])]
    verdicts = [one for one in related.verdicts if related.names[0] in {one.first, one.second}]
    alphas = sorted({one.alpha for one in outputs.removals})
    tuned, *losses = _losses(pupil, [0.0, *alphas])
    return Found(
        pupil.lesson.seed,
        pupil.lesson.lora,
        alphas,
        tuned,
        losses,
        estimates,
        [(None, None) if one.alpha is None else (one.alpha.low, one.alpha.high) for one in verdicts],
        [one.regime for one in verdicts],
        {role: [one.rise.value for one in outputs.removals if one.task == role] for role in _OTHERS},
    )


def _losses(pupil: Pupil, alphas: Sequence[float]) -> list[dict[str, float]]:
    found = taskarith.evaluate(
        [pupil.tuned],
        pupil.lesson.data,
        negate=[pupil.vectors["forgotten"]],
        alphas=alphas,
        prompts=0,
        block_size=_BLOCK,
    )
    return [{role: row[role]["loss"].value for role in ROLES} for row in found.scores.by_text.values()]


def table(found: Sequence[Found]) -> str:
    """Return what all seeds found, in Markdown: each cell has a number for every seed."""
    kinds = {"full": [one for one in found if not one.lora], "LoRA": [one for one in found if one.lora]}
    columns = {
        f"{kind}: {role}": [one.column(role) for one in runs]
        for kind, runs in kinds.items()
        if runs
        for role in _OTHERS
    }
    seeds = ", ".join(str(seed) for seed in sorted({one.seed for one in found}))
    lines = [f"| seeds {seeds} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for title in found[0].column(_OTHERS[0]):
        cells = (" / ".join(cells[title] for cells in runs) for runs in columns.values())
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(_agreement(kind, runs) for kind, runs in kinds.items() if runs)])


def _agreement(kind: str, runs: Sequence[Found]) -> str:
    """Say how well forecasts and measurements agree, over all seeds, texts and alphas."""
    pairs = [
        (forecast, losses[role] - one.tuned[role])
        for one in runs
        for role in _OTHERS
        for forecast, losses in zip(one.forecast[role], one.losses, strict=True)
    ]
    error = mean(abs(forecast - measured) for forecast, measured in pairs)
    agreement = correlation(*zip(*pairs, strict=True))
    return f"{kind}: forecast against measured, correlation {agreement:.2f}, mean absolute error {error:.2f} nats."


def _show(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
