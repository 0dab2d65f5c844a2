"""What several seeds found, as a table and a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.colored_digits.experiment import Edit, Plan, Regime, Result, Target

__all__ = ["draw", "in_region", "region_agreement", "tables"]

_THRESHOLDS = (1.0, 0.2)  # theorem 3 as it is written (1 + c, for c -> 0), and as the paper's figure draws it
_NEAR = 2.0  # points below fine-tuning that still count as success
_PAPER = {
    "alpha": ("0.164", "0.891", "-0.849"),
    "best λ": ("1.4", "-0.6", "0.2", "0.0", "0.6", "-1.0"),
    "T1": ("91.83 (-3.06)", "95.02 (-0.56)", "95.62 (0.00)", "95.20 (-0.42)", "79.54 (-16.70)", "94.21 (-0.61)"),
    "T2": ("88.40 (-5.65)", "50.34 (-45.24)", "92.46 (-3.23)", "90.51 (-5.18)", "62.52 (-33.72)", "4.97 (-89.85)"),
}


def tables(results: Sequence[Result], plan: Plan) -> str:
    """Return the paper's two tables with our numbers below its own, in Markdown."""
    digits = _spread([result.digits for result in results])
    head = (
        f"{len(results)} seeds, mean ± standard deviation; "
        f"digit and colour of {digits}% of the test images are named after pre-training."
    )
    return "\n".join([head, "", *_regime_table(results), "", *_target_table(results, plan.grid)])


def _regime_table(results: Sequence[Result]) -> list[str]:
    names = list(results[0].regimes)
    columns = [(name, kind) for name in names for kind in ("addition", "negation")]
    lines = [
        "| accuracy in % (gap to fine-tuned) | " + " | ".join(f"{name}, {kind}" for name, kind in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]

    def row(title: str, cell: Callable[[str, str], str]) -> str:
        return f"| {title} | " + " | ".join(cell(name, kind) for name, kind in columns) + " |"

    def regimes(name: str) -> list[Regime]:
        return [result.regimes[name] for result in results]

    def edits(name: str, kind: str) -> list[Edit]:
        return [getattr(regime, kind) for regime in regimes(name)]

    lines.append(row("measured alpha", lambda name, _: _spread([regime.alpha for regime in regimes(name)], 3)))
    for place in range(2):
        title = f"T{place + 1}, its own fine-tuned model"
        lines.append(row(title, lambda name, _, place=place: _spread([r.finetuned[place] for r in regimes(name)])))
    lines.append(row("best λ, each seed", lambda *at: ", ".join(f"{e.coefficients[1]:g}" for e in edits(*at))))
    for place, title in enumerate(("T1", "T2")):

        def cell(name: str, kind: str, place: int = place) -> str:
            found = [edit.accuracies[place] for edit in edits(name, kind)]
            gap = mean(found) - mean(regime.finetuned[place] for regime in regimes(name))
            return f"{_spread(found)} ({gap:+.1f})"

        lines.append(row(title, cell))
    for title, values in _PAPER.items():
        repeated = [value for value in values for _ in range(len(columns) // len(values))]
        lines.append(f"| paper: {title} | " + " | ".join(repeated) + " |")
    return lines


def _target_table(results: Sequence[Result], coefficients: Sequence[float]) -> list[str]:
    targets = [result.target for result in results]
    best = ", ".join("({:g}, {:g})".format(*target.best.coefficients) for target in targets)
    reached = [target.best.accuracies[0] for target in targets]
    gaps = [found - target.finetuned for found, target in zip(reached, targets, strict=True)]
    gamma = " and ".join(_spread([target.gamma[place] for target in targets], 2) for place in range(2))
    lines = [
        "| out of domain, accuracy on T' in % | here | paper |",
        "|---|---|---|",
        f"| fine-tuned on T' | {_spread([target.finetuned for target in targets])} | 92.21 |",
        f"| (1, 0) | {_spread([target.alone[0] for target in targets])} | 88.10 |",
        f"| (0, 1) | {_spread([target.alone[1] for target in targets])} | 45.06 |",
        *(_single_row(targets, place) for place in range(2)),
        f"| best (λ1, λ2): {best} | {_spread(reached)} | (1.2, -0.6): 91.74 |",
        f"| best less fine-tuned, points | {_spread(gaps)} | -0.47 |",
        f"| estimated gamma of T1 and T2 | {gamma} | 0.792 and -0.637 |",
    ]
    for threshold in _THRESHOLDS:
        shares = [100 * region_agreement(result, coefficients, threshold) for result in results]
        inside = sum(in_region(target.best.coefficients, target.gamma, threshold) for target in targets)
        title = f"theorem 3 with {threshold:g} on the right: grid points where it is right; best pairs inside"
        lines.append(f"| {title} | {_spread(shares)} %; {inside} of {len(targets)} | |")
    return lines


def _single_row(targets: Sequence[Target], place: int) -> str:
    edits = [target.single[place] for target in targets]
    pairs = ", ".join("({:g}, {:g})".format(*edit.coefficients) for edit in edits)
    return f"| best of one vector: {pairs} | {_spread([edit.accuracies[0] for edit in edits])} | |"


def in_region(pair: tuple[float, float], gamma: tuple[float, float], threshold: float) -> bool:
    """Whether theorem 3 promises a pair of coefficients: both weighted sums reach the threshold."""
    return all(sum(c * g**power for c, g in zip(pair, gamma, strict=True)) >= threshold for power in (1, 2))


def region_agreement(result: Result, coefficients: Sequence[float], threshold: float) -> float:
    """Return the share of the grid where prediction and success (within 2 points of the fine-tuned model) agree."""
    target = result.target
    agree = [
        in_region((first, second), target.gamma, threshold) == (found >= target.finetuned - _NEAR)
        for first, row in zip(coefficients, target.grid, strict=True)
        for second, found in zip(coefficients, row, strict=True)
    ]
    return sum(agree) / len(agree)


def _spread(values: Sequence[float], digits: int = 1) -> str:
    """Write the mean and, of several seeds, the standard deviation."""
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


def draw(results: Sequence[Result], plan: Plan, path: Path) -> None:
    """Draw both accuracies against lambda in each regime, and the out-of-domain grid, as PNG."""
    figure = Figure(figsize=(13.0, 3.6), layout="constrained")
    panels = figure.subplots(1, len(results[0].regimes) + 1)
    for axes, name in zip(panels, results[0].regimes, strict=False):
        _draw_regime(axes, [result.regimes[name] for result in results], plan.coefficients)
        alpha = mean(result.regimes[name].alpha for result in results)
        axes.set_title(f"{name}, alpha = {alpha:.2f}", loc="left", fontsize=11)
    panels[0].set_ylabel("test accuracy, %")
    panels[0].legend(frameon=False, fontsize=9, loc="lower left")
    _draw_target(figure, panels[-1], results, plan.grid)
    figure.savefig(path, dpi=110, facecolor="white")


def _draw_regime(axes: Axes, regimes: Sequence[Regime], coefficients: Sequence[float]) -> None:
    for place, (label, colour, marker) in enumerate((("T1", "#0072B2", "o"), ("T2", "#D55E00", "s"))):
        curves = [[pair[place] for pair in regime.curve] for regime in regimes]
        columns = list(zip(*curves, strict=True))
        axes.plot(coefficients, [mean(c) for c in columns], color=colour, marker=marker, markersize=4, label=label)
        axes.fill_between(coefficients, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.15)
        level = mean(regime.finetuned[place] for regime in regimes)
        axes.axhline(level, color=colour, linestyle=(0, (4, 3)), linewidth=1, alpha=0.8)
    axes.axvline(0, color="#666666", linestyle=":", linewidth=1)
    axes.set_ylim(0, 101)
    axes.set_xlabel("λ, T1's coefficient is 1")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_target(figure: Figure, axes: Axes, results: Sequence[Result], coefficients: Sequence[float]) -> None:
    targets = [result.target for result in results]
    size = range(len(coefficients))
    grid = [[mean(target.grid[i][j] for target in targets) for i in size] for j in size]
    mesh = axes.pcolormesh(coefficients, coefficients, grid, cmap="viridis", shading="nearest", vmin=0, vmax=100)
    figure.colorbar(mesh, ax=axes, label="accuracy on T', %")
    gamma = mean(target.gamma[0] for target in targets), mean(target.gamma[1] for target in targets)
    for threshold, style in zip(_THRESHOLDS, ("--", ":"), strict=True):
        inside = [[in_region((first, second), gamma, threshold) for first in coefficients] for second in coefficients]
        axes.contour(coefficients, coefficients, inside, levels=[0.5], colors="white", linestyles=style, linewidths=1.2)
    axes.plot(
        *zip(*(target.best.coefficients for target in targets), strict=True),
        linestyle="none", marker="*", markersize=11, color="#D55E00", markeredgecolor="white",
    )  # fmt: skip
    axes.set_title("out of domain", loc="left", fontsize=11)
    axes.set_xlabel("λ1, of T1")
    axes.set_ylabel("λ2, of the blue task")
