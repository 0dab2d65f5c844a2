"""Correlations of task vectors by their models' outputs: the paper's, and better ones.

The paper's estimate (eq. 14) is the mean cosine of the outputs of two fine-tuned models over test inputs, averaged over
the test sets of both tasks. But two language models with the same base give nearly the same outputs, whatever
they have learned, and fine-tuning changes them mostly in the same way on every text. The relation of two tasks shows
only in one coordinate of the output, the true token's, since to first order nothing else changes the loss. The deciding
estimate is the correlation, over the tokens of an input, of the loss reductions by the two vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from taskarith.evaluation.metrics.intervals import Estimate

__all__ = ["DECISIVE", "MEASURES", "MULTIPLES", "OutputRelations", "Removal"]

MEASURES = {
    "loss changes": "correlation over an input's tokens of what the two vectors take from the true tokens' losses",
    "loss changes, uncentred": "the same as a cosine, without taking the means away",
    "output changes": "cosine of the changes of centred logits, against the base",
    "state changes": "cosine of the changes of the last hidden states, against the base",
    "outputs": "cosine of the logits, as in the paper's eq. 14",
    "centred outputs": "cosine of the logits without their means",
    "states": "cosine of the last hidden states",
}
"""Means over inputs, averaged over the test sets of both tasks."""

DECISIVE = "loss changes"
"""The measure that decides the verdict."""

MULTIPLES = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
"""Multiples of a task's vector to try as a stand-in for a model that knows the task."""


@dataclass(frozen=True)
class Removal:
    """The expected effect on another task of subtracting the first vector.

    The model to edit is unknown; it is only known that it knows the other task. Its stand-in is the base plus that
    task's vector, scaled for the lowest loss: the bottom of the valley, where a model trained longer on the task would
    be. (With the unscaled vector, the same subtraction costs about twice as much.)

    :param task: The other task.
    :param alpha: Coefficient of the subtracted vector.
    :param known: Coefficient of the other task's vector in the stand-in.
    :param rise: Rise of that task's mean loss per input, in nats.
    """

    task: str
    alpha: float
    known: float
    rise: Estimate


@dataclass(frozen=True)
class OutputRelations:
    """Relations of vectors by their models' outputs.

    :param names: Names of the tasks.
    :param inputs: Number of test inputs of each task.
    :param correlations: Each of ``MEASURES`` by pair of vectors ``(i, j)``, i < j; None if undefined, as for a vector
        that changes nothing.
    :param losses: Mean loss (nats) on each task's inputs (columns) of the base (row 0) and of each vector's model.
    :param entropies: Mean entropy (nats) of the outputs, in the same layout.
    :param changes: Change of the mean loss on each task's inputs (columns) by each vector (rows).
    :param learned: Whether each vector was trained on its test set, by its record; None if nothing is recorded.
    :param together: By pair, changes of both tasks' mean losses by the first vector plus the multiple of the
        second that theorem 1 requires; None if that is unknown.
    :param removals: Forecast of subtracting the first vector.
    """

    names: tuple[str, ...]
    inputs: tuple[int, ...]
    correlations: dict[str, dict[tuple[int, int], Estimate | None]]
    losses: np.ndarray = field(repr=False)
    entropies: np.ndarray = field(repr=False)
    changes: tuple[tuple[Estimate, ...], ...]
    learned: tuple[bool | None, ...]
    together: dict[tuple[int, int], tuple[Estimate, Estimate] | None]
    removals: tuple[Removal, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the correlations are in the order of the pairs (0, 1), (0, 2), (1, 2), ..."""
        return {
            "inputs": self.inputs,
            "measures": MEASURES,
            "decisive": DECISIVE,
            "correlations": {
                measure: [value and value.to_json() for value in by_pair.values()]
                for measure, by_pair in self.correlations.items()
            },
            "models": ["base", *self.names],
            "losses": self.losses.tolist(),
            "entropies": self.entropies.tolist(),
            "changes": [[change.to_json() for change in row] for row in self.changes],
            "trained on": list(self.learned),
            "together": [pair and [change.to_json() for change in pair] for pair in self.together.values()],
            "removals": [
                {"task": r.task, "alpha": r.alpha, "known": r.known, "rise": r.rise.to_json()} for r in self.removals
            ],
        }
