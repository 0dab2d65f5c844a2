"""Run the models of task vectors on test inputs, and compare their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from taskarith.checkpoints.team import ALONE, Team
from taskarith.data.tokens import Sample
from taskarith.evaluation.metrics.intervals import Estimate, estimate, mean
from taskarith.models.runtime import Runtime
from taskarith.progress import Listener
from taskarith.relations.correlations import DECISIVE, MEASURES, MULTIPLES, OutputRelations, Removal
from taskarith.relations.inputs import TestInputs
from taskarith.relations.probe import Answer, Probe, alone, cut_inputs, open_probe
from taskarith.relations.vectors import Related
from taskarith.relations.verdict import coefficient_of

__all__ = ["Setup", "open_tasks", "relate_outputs"]

_REMOVED = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Setup:
    """Settings of the measurement of outputs.

    :param data: A test set of each vector's task, in order.
    :param learned: Whether each vector was trained on its test set.
    :param beta: Assumed beta of theorem 1.
    :param inputs: How test inputs are cut from the test sets.
    :param runtime: How the model is loaded.
    """

    data: Mapping[str, str]
    learned: tuple[bool | None, ...]
    beta: float
    inputs: TestInputs
    runtime: Runtime


def open_tasks(
    related: Related, setup: Setup, listener: Listener, team: Team = ALONE
) -> tuple[Probe, list[list[Sample]]]:
    """Open the base and cut the test inputs of all tasks, without loading weights.

    :raises UsageError: A number is out of range, or the model is an adapter.
    :raises DataError: A test set is missing or too short.
    """
    probe = open_probe(related, setup.runtime, listener, team)
    return probe, list(cut_inputs(probe.loaded, setup.data, setup.inputs).values())


def relate_outputs(setup: Setup, probe: Probe, tasks: Sequence[Sequence[Sample]]) -> OutputRelations:
    """Run the base and each vector's model on the test inputs of all tasks, and compare their outputs.

    The model is loaded once and edited in memory.

    :param setup: Settings of the measurement.
    :param probe: The base.
    :param tasks: Test inputs of each vector's task; see ``open_tasks``.
    :raises CheckpointError: A loss is not finite.
    """
    related = probe.related
    answers = [probe.ask([0.0] * len(tasks), tasks, "the base")]
    answers += [probe.ask(alone(index, len(tasks)), tasks, name) for index, name in enumerate(related.names)]
    removals = _removals(probe, tasks)
    pairs = [(i, j) for j in range(len(tasks)) for i in range(j)]
    measured = {pair: _compare(answers, *pair) for pair in pairs}
    judged = {pair: all(setup.learned[index] for index in pair) for pair in pairs}
    alphas = {pair: coefficient_of(measured[pair][DECISIVE], setup.beta) if judged[pair] else None for pair in pairs}
    return OutputRelations(
        related.names,
        tuple(len(task) for task in tasks),
        {measure: {pair: measured[pair][measure] for pair in pairs} for measure in MEASURES},
        np.array([[np.mean([answer.losses.mean() for answer in task]) for task in model] for model in answers]),
        np.array([[np.mean([answer.entropy for answer in task]) for task in model] for model in answers]),
        tuple(tuple(map(_change, answers[0], model)) for model in answers[1:]),
        setup.learned,
        {
            pair: None if least is None else _together(probe, tasks, answers[0], pair, least)
            for pair, least in alphas.items()
        },
        removals,
    )


def _change(base: Sequence[Answer], model: Sequence[Answer]) -> Estimate:
    """Return the change of the mean loss per input, in nats."""
    return mean([new.losses.mean() - old.losses.mean() for old, new in zip(base, model, strict=True)])


def _together(
    probe: Probe,
    tasks: Sequence[Sequence[Sample]],
    base: Sequence[Sequence[Answer]],
    pair: tuple[int, int],
    least: float,
) -> tuple[Estimate, Estimate]:
    """Measure the first vector plus a multiple of the second."""
    weights = [0.0] * len(tasks)
    weights[pair[0]], weights[pair[1]] = 1.0, least
    name = f"{probe.related.names[pair[0]]} and {least:.2f} {probe.related.names[pair[1]]}"
    first, second = probe.ask(weights, [tasks[index] for index in pair], name)
    return _change(base[pair[0]], first), _change(base[pair[1]], second)


def _compare(answers: Sequence[Sequence[Sequence[Answer]]], i: int, j: int) -> dict[str, Estimate | None]:
    """Compare two vectors' models on the inputs of both tasks."""
    base, first, second = answers[0], answers[1 + i], answers[1 + j]
    sides = []
    for task in (i, j):
        inputs = zip(base[task], first[task], second[task], strict=True)
        sides.append([_measures(*answers_to_input) for answers_to_input in inputs])
    return {measure: _symmetrised(*([values[measure] for values in side] for side in sides)) for measure in MEASURES}


def _measures(base: Answer, first: Answer, second: Answer) -> dict[str, float]:
    """Return each of ``MEASURES`` for one input; NaN if undefined."""
    gains = [base.losses - answer.losses for answer in (first, second)]
    centred = [answer.logits - answer.logits.mean(1, keepdims=True) for answer in (base, first, second)]
    return {
        "loss changes": _cosine(*(gain - gain.mean() for gain in gains)),
        "loss changes, uncentred": _cosine(*gains),
        "output changes": _mean_cosine(centred[1] - centred[0], centred[2] - centred[0]),
        "state changes": _mean_cosine(first.states - base.states, second.states - base.states),
        "outputs": _mean_cosine(first.logits, second.logits),
        "centred outputs": _mean_cosine(centred[1], centred[2]),
        "states": _mean_cosine(first.states, second.states),
    }


def _symmetrised(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """Average the means over both test sets, whose inputs are independent."""
    a, b = np.array(first), np.array(second)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    return estimate(lambda i, j: (a[i].mean() + b[j].mean()) / 2, len(a), len(b), bounds=(-1.0, 1.0))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else float("nan")


def _mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean cosine of corresponding rows."""
    return float(np.mean([_cosine(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(a, b, strict=True)]))


def _removals(probe: Probe, tasks: Sequence[Sequence[Sample]]) -> tuple[Removal, ...]:
    """Subtract the first vector from stand-ins that know the other tasks."""
    removals = []
    for task in range(1, len(tasks)):
        known, before = _stand_in(probe, task, tasks[task])
        for alpha in _REMOVED:
            weights = alone(task, len(tasks))
            weights[task], weights[0] = known, -alpha
            after = probe.losses(weights, tasks[task], f"{probe.related.names[task]} less {alpha:g} of the first")
            rises = after - before
            removals.append(Removal(probe.related.names[task], alpha, known, mean(rises)))
    return tuple(removals)


def _stand_in(probe: Probe, task: int, inputs: Sequence[Sample]) -> tuple[float, np.ndarray]:
    """Return the multiple of a task's vector with the lowest loss on its inputs, and those losses."""
    best: tuple[float, np.ndarray] | None = None
    for known in MULTIPLES:
        weights = [known * weight for weight in alone(task, len(probe.related.names))]
        losses = probe.losses(weights, inputs, f"{known:g} {probe.related.names[task]}")
        if best is not None and losses.mean() >= best[1].mean():
            break
        best = known, losses
    assert best is not None  # noqa: S101  (there are multiples)
    return best
