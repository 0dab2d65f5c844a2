"""The verb `out_of_domain`: coefficients that make known vectors serve a task that has none."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from taskarith.data.load import check_form
from taskarith.errors import UsageError
from taskarith.evaluation.metrics.intervals import Estimate, estimate, mean
from taskarith.inspection.open_tensors import plain
from taskarith.models.runtime import RUNTIME, Runtime
from taskarith.progress import SILENT, Listener
from taskarith.relations.inputs import INPUTS, InputKeywords, TestInputs, with_keywords
from taskarith.relations.linear_program import FIGURE_THRESHOLD, Programme, solve
from taskarith.relations.vectors import Related, open_related

if TYPE_CHECKING:
    from taskarith.data.tokens import Sample
    from taskarith.relations.probe import Answer, Probe

__all__ = ["OutOfDomain", "Point", "out_of_domain"]

_GAMMA = "gamma is the mean cosine of what a vector changes in the outputs and of what the target's true tokens ask for"
_LOW = (
    "not even a vector's own task has a gamma of 1 so measured: give each vector's own test set after the target's, "
    "and the gammas are in units of that"
)
_GRID = (-1.0, -0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Point:
    """A combination that was measured.

    :param lambdas: Its coefficients.
    :param loss: Mean loss on the target's inputs, in nats.
    :param predicted: For each programme, whether the point satisfies both of its sums.
    """

    lambdas: tuple[float, ...]
    loss: float
    predicted: tuple[bool, ...]


@dataclass(frozen=True)
class OutOfDomain:
    """What theorem 3 says of a task that no vector was made for.

    :param names: Of the vectors.
    :param gammas: Their correlations with the target, with intervals where they were measured.
    :param programmes: Solved for the literal threshold, and for the one of the paper's figure.
    :param command: What applies the first solution that there is; None where there is none.
    :param base_loss: Of the base on the target, in nats; None where the gammas were given.
    :param points: What was measured; none where the gammas were given.
    :param remarks: What the numbers rest on.
    """

    names: tuple[str, ...]
    gammas: tuple[Estimate, ...]
    programmes: tuple[Programme, ...]
    command: str | None
    base_loss: float | None
    points: tuple[Point, ...]
    remarks: tuple[str, ...]

    @property
    def best(self) -> Point | None:
        """The measured point of the least loss."""
        return min(self.points, key=lambda point: point.loss, default=None)

    def agreement(self, programme: int) -> float | None:
        """Return the share of measured points at which the region and the loss agree: inside it is below the base's."""
        if self.base_loss is None or not self.points:
            return None
        hits = [point.predicted[programme] == (point.loss < self.base_loss) for point in self.points]
        return sum(hits) / len(hits)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        return plain(
            {
                "names": self.names,
                "gammas": [gamma.to_json() for gamma in self.gammas],
                "programmes": [asdict(one) | {"beta": one.beta} for one in self.programmes],
                "command": self.command,
                "base_loss": self.base_loss,
                "points": [asdict(point) for point in self.points],
                "agreement": [self.agreement(number) for number in range(len(self.programmes))],
                "remarks": self.remarks,
            }
        )


def out_of_domain(
    vectors: Sequence[str],
    *,
    gammas: Sequence[float] | None = None,
    data: Mapping[str, str] | None = None,
    model: str | None = None,
    margin: float = 0.1,
    threshold: float | None = None,
    cap: float = math.inf,
    cut: TestInputs = INPUTS,
    runtime: Runtime = RUNTIME,
    listener: Listener = SILENT,
    **keywords: Unpack[InputKeywords],
) -> OutOfDomain:
    """Find coefficients of known vectors for a task that none was made for (theorem 3), and measure around them.

    :param vectors: One or more, of any form, each with an optional coefficient.
    :param gammas: The correlation of the target task with each vector's; None measures them.
    :param data: The target's test set first; after it, if wanted, one of each vector's own task, in their order: the
        gammas are then in units of what a vector does for its own task.
    :param model: Their base; None takes the one that they record.
    :param margin: The theorem's c, between 0 and 1.
    :param threshold: Of both sums; None is ``1 + margin``. The one of the paper's figure, 0.2, is always solved too.
    :param cap: Most that a coefficient may be.
    :param cut: Number and length of test inputs, and how their chats are written.
    :param runtime: Dtype and device of the model in memory.
    :param listener: Receives progress updates.
    :param keywords: Fields of ``cut`` and ``runtime`` by name, such as ``inputs=8``.
    :raises UsageError: Gammas and data, or neither, are given, or a number is out of range.
    :raises VectorError: A vector is missing or of a kind that cannot be used.
    :raises MismatchError: A vector does not fit the base.
    :raises DataError: A test set is missing or too short.
    """
    cut, runtime = with_keywords(keywords, cut, runtime)
    if not data:
        check_form(cut.form, ())
    if (gammas is None) == (not data):
        raise UsageError("give the gammas or data of the target, not both", "--gamma 0.8,-0.6 or --data target=FILE")
    if not 0 < margin < 1:
        raise UsageError(f"the margin c is {margin}", "Give a number between 0 and 1.")
    if gammas is not None and len(gammas) != len(vectors):
        raise UsageError(f"{len(vectors)} vectors have {len(gammas)} gammas", "Give one for each vector, in order.")
    if data and len(data) not in {1, 1 + len(vectors)}:
        raise UsageError(
            f"{len(vectors)} vectors have {len(data)} test sets",
            "Give the target's alone, or the target's first and then one for each vector, in order.",
        )
    related = open_related(vectors, model, listener, list(data)[1:] if data else None)
    thresholds = dict.fromkeys((1 + margin if threshold is None else threshold, FIGURE_THRESHOLD))
    if gammas is not None:
        found = tuple(Estimate(float(gamma), None, None, 0) for gamma in gammas)
        programmes = tuple(solve(gammas, one, cap) for one in thresholds)
        command = _command(related, programmes)
        remarks = (*related.remarks, *_premises(found))
        return OutOfDomain(related.names, found, programmes, command, None, (), remarks)
    study = _Study(related, dict(data or {}), cut, runtime, listener)
    found = study.gammas()
    programmes = tuple(solve([one.value for one in found], limit, cap) for limit in thresholds)
    points = study.measure(programmes)
    command = _command(related, programmes)
    remarks = (*related.remarks, *study.remarks, *_premises(found))
    return OutOfDomain(related.names, found, programmes, command, study.base_loss, points, remarks)


def _premises(gammas: Sequence[Estimate]) -> tuple[str, ...]:
    """Say where gammas are such as theorem 3 does not have: they are parts of a unit feature along orthogonal ones."""
    total = math.fsum(gamma.value**2 for gamma in gammas)
    if total <= 1:
        return ()
    orthogonal = "more than the 1 that orthogonal tasks can have in theorem 3"
    return (f"the squares of the gammas add up to {total:.3g}, {orthogonal}: of such tasks it says nothing",)


def _command(related: Related, programmes: Sequence[Programme]) -> str | None:
    """Return the command that applies the first solution."""
    lambdas = next((one.lambdas for one in programmes if one.lambdas is not None), None)
    if lambdas is None:
        return None
    words = ["taskarith", "apply", related.model]
    for reference, weight in zip(related.references, lambdas, strict=True):
        whole = reference.coefficient * weight
        if whole:
            words += ["--add" if whole > 0 else "--negate", f"{replace(reference, coefficient=1.0)}:{abs(whole):.4g}"]
    return shlex.join([*words, "-o", "combined"])


class _Study:
    """The model in memory, asked about the target."""

    def __init__(
        self,
        related: Related,
        data: Mapping[str, str],
        cut: TestInputs,
        runtime: Runtime,
        listener: Listener,
    ) -> None:
        from taskarith.relations.probe import cut_inputs, open_lab

        self._lab: Probe = open_lab(related, runtime, listener)
        tasks = list(cut_inputs(self._lab.loaded, data, cut).values())
        self._target, self._own = tasks[0], tasks[1:]
        self._count = len(related.names)
        self.base_loss = 0.0
        self.remarks: tuple[str, ...] = (_GAMMA,) if self._own else (_GAMMA, _LOW)

    def gammas(self) -> tuple[Estimate, ...]:
        """Return the correlation of the target with each vector."""
        from taskarith.relations.probe import alone

        zero = [0.0] * self._count
        base = self._lab.ask(zero, [self._target, *self._own], "the base")
        self.base_loss = float(np.mean([one.losses.mean() for one in base[0]]))
        found = []
        for index in range(self._count):
            tasks: list[Sequence[Sample]] = [self._target, *self._own[index : index + 1]]
            sides = [base[0], *base[1 + index : 2 + index]] if self._own else [base[0]]
            answers = self._lab.ask(alone(index, self._count), tasks, f"vector {index + 1}")
            found.append(_gamma(*(_alignments(*side) for side in zip(sides, answers, strict=True))))
        return tuple(found)

    def measure(self, programmes: Sequence[Programme]) -> tuple[Point, ...]:
        """Measure a grid of two vectors, or each of several alone, and the solutions."""
        from taskarith.relations.probe import alone

        if self._count == 2:
            wanted = list(itertools.product(_GRID, repeat=2))
        else:
            wanted = [
                tuple(sign * one for one in alone(i, self._count)) for i in range(self._count) for sign in (1, -1)
            ]
        wanted += [one.lambdas for one in programmes if one.lambdas is not None]
        points = []
        for lambdas in dict.fromkeys(wanted):
            losses = self._lab.losses(lambdas, self._target, f"lambda {' '.join(f'{one:g}' for one in lambdas)}")
            points.append(Point(lambdas, float(losses.mean()), tuple(_is_inside(lambdas, one) for one in programmes)))
        return tuple(points)


def _alignments(base: Sequence[Answer], model: Sequence[Answer]) -> np.ndarray:
    """Return for each input the mean cosine of the outputs' change and of the one-hot truth less the probabilities."""
    found = []
    for before, after in zip(base, model, strict=True):
        change = (after.logits - before.logits).astype(np.float64)
        change -= change.mean(1, keepdims=True)
        scores = np.exp(before.logits.astype(np.float64) - before.logits.max(1, keepdims=True))
        asked = -scores / scores.sum(1, keepdims=True)
        asked[np.arange(len(asked)), before.targets] += 1
        sizes = np.linalg.norm(change, axis=1) * np.linalg.norm(asked, axis=1)
        cosines = np.divide((change * asked).sum(1), sizes, out=np.zeros(len(sizes)), where=sizes > 0)
        found.append(cosines.mean())
    return np.array(found)


def _gamma(target: np.ndarray, own: np.ndarray | None = None) -> Estimate:
    """Return the mean over the target's inputs, in units of that over a vector's own, within -1 and 1."""
    if own is None:
        return mean(target, (-1.0, 1.0))
    if own.mean() <= 0:
        raise UsageError("a vector does nothing for its own test set", "Check the order of --data: the target first.")

    def ratio(i: np.ndarray, j: np.ndarray) -> float:
        return float(np.clip(target[i].mean() / max(own[j].mean(), np.finfo(float).tiny), -1, 1))

    return estimate(ratio, len(target), len(own), bounds=(-1.0, 1.0))


def _is_inside(lambdas: Sequence[float], programme: Programme) -> bool:
    """Tell whether a point satisfies both sums; rounding of a solution on the border does not put it outside."""
    gammas, weights = np.array(programme.gammas), np.array(lambdas)
    least = min(float(weights @ gammas), float(weights @ gammas**2))
    return least >= programme.threshold * (1 - 1e-9)
