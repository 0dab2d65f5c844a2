"""How the models that task vectors make relate by what they answer: the paper's correlation, and better ones.

The paper's estimate (eq. 14) is the mean cosine of the outputs of two fine-tuned models over test inputs, averaged over
the test sets of both tasks. Two language models made from one base give nearly the same outputs, whatever they have
learned, and what fine-tuning changes in them is mostly the same on every text. What a task has to do with another shows
in one coordinate of the output only, the true token's, since to first order nothing else changes the loss. So the
estimate that decides is the correlation, over the tokens of an input, of what the two vectors take from the loss.
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
"""The measure that the verdict is taken from."""

MULTIPLES = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
"""Times a task's vector that are tried to stand in for a model that knows the task."""


@dataclass(frozen=True)
class Removal:
    """What taking the first vector away is expected to do to another task.

    The model that will be edited is not known here, only that it knows that task. In its place stands the base plus
    that task's vector, times the number that gives the least loss: the bottom of a valley, where a model that was
    trained on the task for longer is. (From the vector alone the same removal costs about twice as much.)

    :param task: The other task.
    :param alpha: The coefficient of what is taken away.
    :param known: The coefficient of the other task's vector.
    :param rise: Of the mean loss of an input of that task, in nats, with its interval.
    """

    task: str
    alpha: float
    known: float
    rise: Estimate


@dataclass(frozen=True)
class OutputRelations:
    """How vectors relate by their models' answers.

    :param names: Of the tasks.
    :param inputs: Number of test inputs of each task.
    :param correlations: Each of ``MEASURES``, by pair of vectors ``(i, j)``, i < j; None where it is not defined, as of
        a vector that changes nothing.
    :param losses: Mean loss (nats) on each task's inputs (columns), of the base (row 0) and of each vector's model.
    :param entropies: Mean entropy (nats) of the outputs, likewise.
    :param changes: Change of the mean loss on each task's inputs (columns) by each vector (rows), with its interval.
    :param learned: Whether each test set is recorded as what its vector was trained on; None where nothing is recorded.
    :param together: By pair, changes of the mean losses of both tasks by the first vector and as much of the second as
        theorem 1 asks for; None where that is not known.
    :param removals: Forecast of taking the first vector away.
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
                measure: [one and one.to_json() for one in found.values()]
                for measure, found in self.correlations.items()
            },
            "models": ["base", *self.names],
            "losses": self.losses.tolist(),
            "entropies": self.entropies.tolist(),
            "changes": [[one.to_json() for one in row] for row in self.changes],
            "trained on": list(self.learned),
            "together": [found and [one.to_json() for one in found] for found in self.together.values()],
            "removals": [
                {"task": one.task, "alpha": one.alpha, "known": one.known, "rise": one.rise.to_json()}
                for one in self.removals
            ],
        }
