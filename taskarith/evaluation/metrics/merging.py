"""Accuracy of a merged model relative to the models fine-tuned for one task each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskarith.errors import DataError
from taskarith.evaluation.metrics.intervals import Estimate, Floats, estimate, finite

__all__ = ["Answered", "normalised_accuracy"]


@dataclass(frozen=True)
class Answered:
    """Correct answers of two models on the samples of one task.

    :param correct: Points of the model on each sample, shape (samples,).
    :param finetuned_correct: Points of the model fine-tuned for the task.
    :param counts: Maximum points of each sample: 1, or its number of tokens.
    """

    correct: ArrayLike
    finetuned_correct: ArrayLike
    counts: ArrayLike


def normalised_accuracy(tasks: Sequence[Answered]) -> Estimate:
    """Return the mean over tasks of accuracy / accuracy of the fine-tuned model of that task.

    Source: Ilharco et al., "Editing Models with Task Arithmetic" (arXiv:2212.04089), section 4. The interval leaves a
    sample out for both models at once.

    :raises DataError: There are no tasks, values are not finite, or a fine-tuned model gets nothing right.
    """
    tables = [np.stack([_row(task.correct), _row(task.finetuned_correct), _row(task.counts)]) for task in tasks]
    if not tables or any(not table[1].any() for table in tables):
        raise DataError("a fine-tuned model gets nothing right in its task", "Name the model that learned the task.")

    def statistic(*positions: NDArray[np.int64]) -> Any:
        with np.errstate(
            divide="ignore", invalid="ignore"
        ):  # leaving out a sample may leave nothing right: no interval then
            return np.mean([_share(table[:, at]) for table, at in zip(tables, positions, strict=True)])

    return estimate(statistic, *(table.shape[1] for table in tables), bounds=(0.0, np.inf))


def _row(values: ArrayLike) -> Floats:
    return finite(values, "values of samples")


def _share(table: Floats) -> Any:
    correct, finetuned, counts = table.sum(1)
    return (correct / counts) / (finetuned / counts)
