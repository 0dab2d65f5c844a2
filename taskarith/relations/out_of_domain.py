"""The verb `out_of_domain`: find coefficients of known vectors for a task without a vector."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from taskarith.calls import listed
from taskarith.checkpoints.team import ALONE, Team, launched_team
from taskarith.data.load import check_form
from taskarith.data.spec import named_data
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

_GAMMA = (
    "gamma is the mean cosine of a vector's change of the outputs and the change that the target's true tokens require"
)
_LOW = (
    "measured this way, even a vector's own task has a gamma below 1: give each vector's own test set after the "
    "target's to scale the gammas by it"
)
_GRID = (-1.0, -0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Point:
    """A measured combination.

    :param lambdas: Its coefficients.
    :param loss: Mean loss on the target's inputs, in nats.
    :param predicted: For each linear program, whether the point satisfies both of its sums.
    """

    lambdas: tuple[float, ...]
    loss: float
    predicted: tuple[bool, ...]


@dataclass(frozen=True)
class OutOfDomain:
    """What theorem 3 says about a task without a vector.

    :param names: Names of the vectors.
    :param gammas: Their correlations with the target, with intervals if measured.
    :param programmes: Linear programs with the literal threshold and with the one of the paper's figure.
    :param command: The command that applies the first solution, or None.
    :param base_loss: Loss of the base on the target, in nats; None if gammas were given.
    :param points: Measured points; empty if gammas were given.
    :param remarks: Assumptions and limits of the numbers.
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
        """The measured point with the lowest loss."""
        return min(self.points, key=lambda point: point.loss, default=None)

    def agreement(self, programme: int) -> float | None:
        """Return the share of points where the loss is below the base's if, and only if, they are inside the region."""
        if self.base_loss is None or not self.points:
            return None
        hits = [point.predicted[programme] == (point.loss < self.base_loss) for point in self.points]
        return sum(hits) / len(hits)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return plain(
            {
                "names": self.names,
                "gammas": [gamma.to_json() for gamma in self.gammas],
                "programmes": [asdict(program) | {"beta": program.beta} for program in self.programmes],
                "command": self.command,
                "base_loss": self.base_loss,
                "points": [asdict(point) for point in self.points],
                "agreement": [self.agreement(number) for number in range(len(self.programmes))],
                "remarks": self.remarks,
            }
        )


def out_of_domain(
    vectors: str | Sequence[str],
    *,
    gammas: Sequence[float] | None = None,
    data: Mapping[str, str] | str | Sequence[str] | None = None,
    model: str | None = None,
    margin: float = 0.1,
    threshold: float | None = None,
    cap: float = math.inf,
    launched: bool = False,
    cut: TestInputs = INPUTS,
    runtime: Runtime = RUNTIME,
    listener: Listener = SILENT,
    **keywords: Unpack[InputKeywords],
) -> OutOfDomain:
    """Find coefficients of known vectors for a task without a vector (theorem 3), and measure around them.

    :param vectors: At least one, of any kind, each with an optional coefficient.
    :param gammas: Correlation of the target task with each vector's; None to measure them.
    :param data: The target's test set, optionally followed by one of each vector's own task, in order: the gammas are
        then relative to what a vector does for its own task.
    :param model: Their base; None for the one they record.
    :param margin: The theorem's c, between 0 and 1.
    :param threshold: Threshold of both sums; None for ``1 + margin``. The figure's 0.2 is always solved too.
    :param cap: Upper bound of every coefficient.
    :param launched: All processes started by ``accelerate launch`` make this call, share the test inputs and return the
        same numbers.
    :param cut: Number, length and chat format of test inputs.
    :param runtime: Dtype and device of the model in memory.
    :param listener: Receives progress updates.
    :param keywords: Fields of ``cut`` and ``runtime`` by name, such as ``inputs=8``.
    :raises UsageError: Both gammas and data are given, or neither, or a number is out of range.
    :raises VectorError: A vector is missing or of a kind that cannot be used.
    :raises MismatchError: A vector does not fit the base.
    :raises DataError: A test set is missing or too short.
    """
    cut, runtime = with_keywords(keywords, cut, runtime)
    vectors, data = listed(vectors), None if data is None else named_data(data)
    if not data:
        check_form(cut.form, ())
    if (gammas is None) == (not data):
        raise UsageError("give either the gammas or data of the target", "Give --gamma 0.8,-0.6 or --data target=FILE")
    if not 0 < margin < 1:
        raise UsageError(f"the margin {margin} is out of range", "Give a number between 0 and 1.")
    if gammas is not None and len(gammas) != len(vectors):
        raise UsageError(
            f"{len(gammas)} gammas are given for {len(vectors)} vectors", "Give one for each vector, in order."
        )
    if data and len(data) not in {1, 1 + len(vectors)}:
        raise UsageError(
            f"{len(data)} test sets are given for {len(vectors)} vectors",
            "Give the target's alone, or the target's first and then one for each vector, in order.",
        )
    team = launched_team() if launched else ALONE
    related = open_related(vectors, model, listener, list(data)[1:] if data else None, team)
    thresholds = dict.fromkeys((1 + margin if threshold is None else threshold, FIGURE_THRESHOLD))
    if gammas is not None:
        measured = tuple(Estimate(float(gamma), None, None, 0) for gamma in gammas)
        programmes = tuple(solve(gammas, limit, cap) for limit in thresholds)
        command = _command(related, programmes)
        remarks = (*related.remarks, *_premises(measured))
        return OutOfDomain(related.names, measured, programmes, command, None, (), remarks)
    target = _TargetProbe(related, dict(data or {}), cut, runtime, listener, team)
    measured = target.gammas()
    programmes = tuple(solve([gamma.value for gamma in measured], limit, cap) for limit in thresholds)
    points = target.measure(programmes)
    command = _command(related, programmes)
    remarks = (*related.remarks, *target.remarks, *_premises(measured))
    return OutOfDomain(related.names, measured, programmes, command, target.base_loss, points, remarks)


def _premises(gammas: Sequence[Estimate]) -> tuple[str, ...]:
    """Remark on gammas that theorem 3 excludes: as parts of a unit feature, their squares sum to at most 1."""
    total = math.fsum(gamma.value**2 for gamma in gammas)
    if total <= 1:
        return ()
    orthogonal = "more than the 1 that orthogonal tasks can have in theorem 3"
    return (f"the squares of the gammas add up to {total:.3g}, {orthogonal}, so it does not apply",)


def _command(related: Related, programmes: Sequence[Programme]) -> str | None:
    """Return the command that applies the first solution."""
    lambdas = next((program.lambdas for program in programmes if program.lambdas is not None), None)
    if lambdas is None:
        return None
    words = ["taskarith", "apply", related.model]
    for reference, weight in zip(related.references, lambdas, strict=True):
        coefficient = reference.coefficient * weight
        if coefficient:
            words += [
                "--add" if coefficient > 0 else "--negate",
                f"{replace(reference, coefficient=1.0)}:{abs(coefficient):.4g}",
            ]
    return shlex.join([*words, "-o", "combined"])


class _TargetProbe:
    """The model in memory, measured on the target."""

    def __init__(
        self,
        related: Related,
        data: Mapping[str, str],
        cut: TestInputs,
        runtime: Runtime,
        listener: Listener,
        team: Team,
    ) -> None:
        from taskarith.relations.probe import cut_inputs, open_probe

        self._probe: Probe = open_probe(related, runtime, listener, team)
        tasks = list(cut_inputs(self._probe.loaded, data, cut).values())
        self._target, self._own = tasks[0], tasks[1:]
        self._count = len(related.names)
        self.base_loss = 0.0
        self.remarks: tuple[str, ...] = (_GAMMA,) if self._own else (_GAMMA, _LOW)

    def gammas(self) -> tuple[Estimate, ...]:
        """Return the correlation of the target with each vector."""
        from taskarith.relations.probe import alone

        zero = [0.0] * self._count
        base = self._probe.ask(zero, [self._target, *self._own], "the base")
        self.base_loss = float(np.mean([answer.losses.mean() for answer in base[0]]))
        gammas = []
        for index in range(self._count):
            tasks: list[Sequence[Sample]] = [self._target, *self._own[index : index + 1]]
            sides = [base[0], *base[1 + index : 2 + index]] if self._own else [base[0]]
            answers = self._probe.ask(alone(index, self._count), tasks, f"vector {index + 1}")
            gammas.append(_gamma(*(_alignments(*side) for side in zip(sides, answers, strict=True))))
        return tuple(gammas)

    def measure(self, programmes: Sequence[Programme]) -> tuple[Point, ...]:
        """Measure a grid for two vectors, or each alone for more, and the solutions."""
        from taskarith.relations.probe import alone

        if self._count == 2:
            wanted = list(itertools.product(_GRID, repeat=2))
        else:
            wanted = [
                tuple(sign * weight for weight in alone(i, self._count)) for i in range(self._count) for sign in (1, -1)
            ]
        wanted += [program.lambdas for program in programmes if program.lambdas is not None]
        points = []
        for lambdas in dict.fromkeys(wanted):
            losses = self._probe.losses(
                lambdas, self._target, f"lambda {' '.join(f'{weight:g}' for weight in lambdas)}"
            )
            points.append(
                Point(lambdas, float(losses.mean()), tuple(_is_inside(lambdas, program) for program in programmes))
            )
        return tuple(points)


def _alignments(base: Sequence[Answer], model: Sequence[Answer]) -> np.ndarray:
    """Return the mean cosine, per input, of the outputs' change and the one-hot truth minus the probabilities."""
    cosines_of_inputs = []
    for before, after in zip(base, model, strict=True):
        change = (after.logits - before.logits).astype(np.float64)
        change -= change.mean(1, keepdims=True)
        scores = np.exp(before.logits.astype(np.float64) - before.logits.max(1, keepdims=True))
        required = -scores / scores.sum(1, keepdims=True)
        required[np.arange(len(required)), before.targets] += 1
        sizes = np.linalg.norm(change, axis=1) * np.linalg.norm(required, axis=1)
        cosines = np.divide((change * required).sum(1), sizes, out=np.zeros(len(sizes)), where=sizes > 0)
        cosines_of_inputs.append(cosines.mean())
    return np.array(cosines_of_inputs)


def _gamma(target: np.ndarray, own: np.ndarray | None = None) -> Estimate:
    """Return the mean over the target's inputs, relative to that over a vector's own, clipped to [-1, 1]."""
    if own is None:
        return mean(target, (-1.0, 1.0))
    if own.mean() <= 0:
        raise UsageError(
            "a vector does not help on its own test set", "Check the order of --data: the target comes first."
        )

    def ratio(i: np.ndarray, j: np.ndarray) -> float:
        return float(np.clip(target[i].mean() / max(own[j].mean(), np.finfo(float).tiny), -1, 1))

    return estimate(ratio, len(target), len(own), bounds=(-1.0, 1.0))


def _is_inside(lambdas: Sequence[float], programme: Programme) -> bool:
    """Tell whether a point satisfies both sums, with a tolerance for rounding of solutions on the border."""
    gammas, weights = np.array(programme.gammas), np.array(lambdas)
    least = min(float(weights @ gammas), float(weights @ gammas**2))
    return least >= programme.threshold * (1 - 1e-9)
