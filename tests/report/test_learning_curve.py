"""The picture of a learning curve."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskarith.errors import OutputError
from taskarith.report.learning_curve import _draw, plot_learning_curve
from taskarith.training.result import FinetuneResult

SHORT = FinetuneResult(Path("out"), "full", 1.0, 4, 1000, 1.0, "", 4.0, 1.0, training_losses=[(1, 4.0), (2, 3.0)])
LONG = FinetuneResult(
    Path("out"), "full", 1.0, 200, 9000, 1.0, "", 4.0, 1.0, 2.0, 40,
    training_losses=[(step, 400 / (step + 99)) for step in range(1, 201)],
    validation_losses=[(0, 4.5), (40, 2.0), (80, 2.5)],
)  # fmt: skip


def test_it_is_written_and_the_same_numbers_are_the_same_bytes(tmp_path):
    for name in ("a.svg", "a.png", "b.svg"):
        plot_learning_curve(LONG, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    with pytest.raises(OutputError, match="already exists"):
        plot_learning_curve(LONG, tmp_path / "a.svg")
    plot_learning_curve(SHORT, tmp_path / "a.svg", overwrite=True)


@pytest.mark.parametrize(
    ("result", "labels"),
    [
        (SHORT, ["training"]),
        (LONG, ["training", "training, running mean", "validation", "published: step 40, 2"]),
    ],
    ids=["short", "long"],
)
def test_the_lines_are_the_losses(result, labels):
    [axes] = _draw(result).axes
    assert [line.get_label() for line in axes.get_lines()] == labels
    assert next(list(line.get_xdata()) for line in axes.get_lines()) == [step for step, _ in result.training_losses]
    assert next(list(line.get_ydata()) for line in axes.get_lines()) == [loss for _, loss in result.training_losses]
    if result is LONG:
        mean, held = axes.get_lines()[1:3]
        assert next(iter(mean.get_xdata())) == 10
        assert mean.get_ydata()[-1] == pytest.approx(sum(400 / (step + 99) for step in range(191, 201)) / 10)
        assert list(held.get_ydata()) == [4.5, 2.0, 2.5]
