"""What a merged model keeps of the models that were fine-tuned for one task each."""

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
    """What two models got right of the samples of one task.

    :param correct: Of each sample by the model, shape (samples,).
    :param finetuned_correct: By the model that was fine-tuned for the task.
    :param counts: How much there is to get right in each sample: 1, or its tokens.
    """

    correct: ArrayLike
    finetuned_correct: ArrayLike
    counts: ArrayLike


def normalised_accuracy(tasks: Sequence[Answered]) -> Estimate:
    """Return the mean over tasks of accuracy / accuracy of the fine-tuned model of that task.

    Source: Ilharco et al., "Editing Models with Task Arithmetic" (arXiv:2212.04089), section 4. The interval leaves a
    sample out for both models at once.

    :raises DataError: There are none, values are not finite, or a fine-tuned model gets nothing right.
    """
    tables = [np.stack([_row(task.correct), _row(task.finetuned_correct), _row(task.counts)]) for task in tasks]
    if not tables or any(not table[1].any() for table in tables):
        raise DataError("a fine-tuned model gets nothing right of its task", "Name the model that learned the task.")

    def statistic(*positions: NDArray[np.int64]) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):  # without a sample nothing may be right: no interval
            return np.mean([_share(table[:, at]) for table, at in zip(tables, positions, strict=True)])

    return estimate(statistic, *(table.shape[1] for table in tables), bounds=(0.0, np.inf))


def _row(values: ArrayLike) -> Floats:
    return finite(values, "values of samples")


def _share(table: Floats) -> Any:
    correct, finetuned, counts = table.sum(1)
    return (correct / counts) / (finetuned / counts)
