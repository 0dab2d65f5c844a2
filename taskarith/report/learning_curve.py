"""The learning curve of a fine-tuning: losses of the data and of the validation data against steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from taskarith.report.plot import COLOURS, GREY, publish_figure
from taskarith.training.result import FinetuneResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_learning_curve"]

_SMOOTHED = 50  # points from which a mean over a twentieth of them is drawn, too


def plot_learning_curve(result: FinetuneResult, path: Path, *, overwrite: bool = False) -> None:
    """Plot the losses of a fine-tuning against its steps, and mark the step that was published.

    :param result: What to plot.
    :param path: ``*.svg``, ``*.png`` or ``*.pdf``.
    :param overwrite: Replace an existing plot of taskarith.
    :raises OutputError: A file may not be replaced, or cannot be written.
    """
    publish_figure(lambda: _draw(result), path, overwrite)


def _draw(result: FinetuneResult) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.subplots()
    steps, losses = zip(*result.training_losses, strict=True)
    is_long = len(steps) >= _SMOOTHED
    axes.plot(
        steps,
        losses,
        color=COLOURS[1],
        linewidth=0.8 if is_long else 1.8,
        alpha=0.35 if is_long else 1.0,
        marker=None if is_long else ".",
        label="training",
    )
    if is_long:
        axes.plot(*_smooth(steps, losses), color=COLOURS[1], linewidth=1.8, label="training, running mean")
    if result.validation_losses:
        held = zip(*result.validation_losses, strict=True)
        axes.plot(*held, color=COLOURS[0], marker="o", markersize=4.5, linewidth=1.8, label="validation")
    if result.best_step is not None:
        label = f"published: step {result.best_step}, {result.validation_loss:.4g}"
        axes.axvline(result.best_step, color=GREY, linestyle=":", linewidth=1.6, zorder=1, label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(f"Learning curve: {result.steps} steps, {result.tokens:,} tokens", loc="left", fontsize=11)
    axes.legend(frameon=False)
    return figure


def _smooth(steps: tuple[int, ...], losses: tuple[float, ...]) -> tuple[tuple[int, ...], list[float]]:
    """Return means over the last twentieth of all points, at each point that has so many before it."""
    size = len(losses) // 20
    means = [sum(losses[end - size : end]) / size for end in range(size, len(losses) + 1)]
    return steps[size - 1 :], means
