"""One seed of the experiment: pre-train, fine-tune on six tasks, extract their vectors, edit, measure."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from transformers import ViTForImageClassification

import taskarith
from examples.colored_digits.data import Split, Task, coloured, four_colours, load_splits
from examples.colored_digits.model import Size, Training, accuracy, cosine, logits, new_model, parity_model, train

__all__ = ["BLUE", "FIRST", "REGIMES", "TARGET", "TASKS", "Edit", "Plan", "Regime", "Result", "Target", "run", "vector"]

FIRST = Task("first", 0.97)
"""T1 of all regimes: red tells an odd digit in 97% of the images."""

REGIMES = {
    "irrelevant": Task("irrelevant", 0.5),  # the colour tells nothing: the shape has to
    "aligned": Task("aligned", 0.93),
    "contradictory": Task("contradictory", 0.03),  # red means even
}
"""T2 of each regime."""

BLUE = Task("blue", 0.97, angle=90)
"""The second vector out of domain: blue tells an odd digit, red and green are drawn at random."""

TARGET = Task("target", 0.97, angle=45, along=0.5, across=0.9)
"""T', out of domain: half way between T1 and the blue task, on blends of their inks."""

TASKS = (FIRST, *REGIMES.values(), BLUE, TARGET)
"""All that a model is fine-tuned on."""

_KEPT = 2.0
"""Points of T1's validation accuracy that unlearning T2 may cost."""


@dataclass(frozen=True)
class Plan:
    """What one run does.

    :param size: Of the model.
    :param pretraining: On digits and colours together, 40 labels.
    :param finetuning: On the parity of a task.
    :param coefficients: All values that lambda takes in a regime; 0 is one of them.
    :param grid: All values that each of two coefficients takes out of domain; 0 is one of them.
    """

    size: Size = field(default_factory=Size)
    pretraining: Training = field(default_factory=lambda: Training(1200, 2e-3))
    finetuning: Training = field(default_factory=lambda: Training(400, 3e-4, enough=0.15))
    coefficients: Sequence[float] = tuple(round(0.2 * step, 1) for step in range(-10, 11))
    grid: Sequence[float] = tuple(0.25 * step for step in range(-6, 7))


@dataclass(frozen=True)
class Edit:
    """An edit chosen on the validation split, written by ``apply``, and measured on the test split.

    :param coefficients: Of the vectors of both tasks.
    :param accuracies: In percent: of T1 and T2, or of T'.
    """

    coefficients: tuple[float, float]
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class Regime:
    """Two tasks. All accuracies are percents of the test split.

    :param alpha: Measured correlation, eq. 14.
    :param finetuned: Accuracy of each task's own fine-tuned model.
    :param curve: Accuracies of T1 and T2 of ``base + v1 + lambda v2``, one pair for each coefficient.
    :param validation: The same on the validation split, where the edits are chosen.
    :param addition: The edit with lambda >= 0 whose lower one of both accuracies is highest.
    :param negation: The edit with lambda <= 0 that knows least of T2, of those that keep T1.
    """

    alpha: float
    finetuned: tuple[float, float]
    curve: list[tuple[float, float]]
    validation: list[tuple[float, float]]
    addition: Edit
    negation: Edit


@dataclass(frozen=True)
class Target:
    """The out-of-domain task, on the vectors of the first and the blue task.

    :param gamma: Correlations of its fine-tuned model with those of both tasks.
    :param finetuned: Test accuracy of its fine-tuned model, in percent.
    :param alone: Test accuracies of (1, 0) and (0, 1).
    :param grid: Validation accuracy for each pair of coefficients; rows are those of the first task.
    :param best: The best pair of the grid.
    :param single: The best pairs of the grid in which only the first, or only the second coefficient isn't zero.
    """

    gamma: tuple[float, float]
    finetuned: float
    alone: tuple[float, float]
    grid: list[list[float]]
    best: Edit
    single: tuple[Edit, Edit]


@dataclass(frozen=True)
class Result:
    """All that was measured with one seed; accuracies in percent.

    :param digits: Of the test images, those whose digit and colour the pre-trained model names.
    """

    seed: int
    digits: float
    regimes: dict[str, Regime]
    target: Target


def vector(folder: Path, task: Task) -> Path:
    """Return the place of a task's vector."""
    return folder / f"{task.name}.safetensors"


def run(seed: int, folder: Path, plan: Plan, say: Callable[[str], None] = lambda _: None) -> Result:
    """Run the experiment with one seed; models and vectors are left in ``folder``.

    :param say: Told what is being done.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    split = load_splits(seed)
    say("pre-training")
    digits = _make_base(folder, split, plan, generator)
    for task in TASKS:
        say(f"fine-tuning: {task.name}")
        _make_vector(folder, task, split, plan, generator)
    bench = Bench(folder, split, generator)
    regimes = {}
    for name, task in REGIMES.items():
        say(f"tasks that are {name}")
        regimes[name] = _regime(bench, task, plan.coefficients)
    say("out of domain")
    return Result(seed, digits, regimes, _target(bench, plan.grid))


def _make_base(folder: Path, split: Split, plan: Plan, generator: torch.Generator) -> float:
    model = new_model(plan.size, labels=40)
    train(model, lambda: four_colours(split.train, generator, moved=True), plan.pretraining, generator)
    pixels, labels = four_colours(split.test, generator, moved=False)
    parity_model(model, plan.size).save_pretrained(folder / "base")
    return accuracy(logits(model, pixels), labels)


def _make_vector(folder: Path, task: Task, split: Split, plan: Plan, generator: torch.Generator) -> None:
    model = _load(folder / "base")
    model.classifier.requires_grad_(False)
    train(model, lambda: coloured(split.train, task, generator, moved=True), plan.finetuning, generator)
    model.save_pretrained(folder / task.name)
    taskarith.extract(str(folder / "base"), str(folder / task.name), vector(folder, task))


def _load(folder: Path) -> ViTForImageClassification:
    return ViTForImageClassification.from_pretrained(folder).eval()


class Bench:
    """Measures edits of the base on the validation and test inputs of all tasks, which are drawn once."""

    def __init__(self, folder: Path, split: Split, generator: torch.Generator) -> None:
        self.folder = folder
        self.model = _load(folder / "base")
        self.validation = {t.name: coloured(split.validation, t, generator, moved=False) for t in TASKS}
        self.test = {t.name: coloured(split.test, t, generator, moved=False) for t in TASKS}
        self.tuned = {t.name: _load(folder / t.name) for t in TASKS}

    def try_edit(self, weights: Mapping[Task, float], inputs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, ...]:
        """Edit the loaded base in memory and return its accuracy on each of the inputs."""
        # it is not restored: every edit is calculated from the files of the base
        taskarith.InMemoryEdit(self.model, str(self.folder / "base"), add=self._operands(weights)).set(1.0)
        return _accuracies(self.model, inputs)

    def write_edit(self, weights: Mapping[Task, float], tasks: Sequence[Task]) -> Edit:
        """Write an edit with ``apply``, and measure what is in the folder on the test inputs of the tasks."""
        folder = self.folder / "edited"
        taskarith.apply(str(self.folder / "base"), add=self._operands(weights), output_dir=folder, overwrite=True)
        found = _accuracies(_load(folder), [self.test[task.name] for task in tasks])
        shutil.rmtree(folder)
        first, second = weights.values()
        return Edit((first, second), found)

    def correlation(self, first: Task, second: Task) -> float:
        """Return the mean cosine of the outputs of two fine-tuned models, averaged over both tasks' test inputs."""
        values = []
        for task in (first, second):
            pixels, _ = self.test[task.name]
            values.append(cosine(logits(self.tuned[first.name], pixels), logits(self.tuned[second.name], pixels)))
        return sum(values) / len(values)

    def finetuned(self, task: Task) -> float:
        """Return the test accuracy of a task's own model."""
        return _accuracies(self.tuned[task.name], [self.test[task.name]])[0]

    def _operands(self, weights: Mapping[Task, float]) -> list[str]:
        return [f"{vector(self.folder, task)}:{weight}" for task, weight in weights.items()]


def _accuracies(model: ViTForImageClassification, inputs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, ...]:
    return tuple(accuracy(logits(model, pixels), labels) for pixels, labels in inputs)


def _regime(bench: Bench, second: Task, coefficients: Sequence[float]) -> Regime:
    tasks = (FIRST, second)
    inputs = [part[task.name] for part in (bench.validation, bench.test) for task in tasks]
    found = {c: bench.try_edit({FIRST: 1.0, second: c}, inputs) for c in coefficients}
    # the least |lambda| among equals: max and min take the first
    small = sorted(coefficients, key=abs)
    add = max((c for c in small if c >= 0), key=lambda c: min(found[c][:2]))
    kept = [c for c in small if c <= 0 and found[c][0] >= found[0.0][0] - _KEPT]
    negate = min(kept, key=lambda c: found[c][1])
    return Regime(
        alpha=bench.correlation(*tasks),
        finetuned=(bench.finetuned(FIRST), bench.finetuned(second)),
        curve=[(found[c][2], found[c][3]) for c in coefficients],
        validation=[(found[c][0], found[c][1]) for c in coefficients],
        addition=bench.write_edit({FIRST: 1.0, second: add}, tasks),
        negation=bench.write_edit({FIRST: 1.0, second: negate}, tasks),
    )


def _target(bench: Bench, coefficients: Sequence[float]) -> Target:
    tasks = (FIRST, BLUE)
    validation = [bench.validation[TARGET.name]]
    pairs = sorted(product(coefficients, coefficients), key=lambda pair: max(map(abs, pair)))
    found = {pair: bench.try_edit(dict(zip(tasks, pair, strict=True)), validation)[0] for pair in pairs}

    def written(pair: tuple[float, float]) -> Edit:
        return bench.write_edit(dict(zip(tasks, pair, strict=True)), [TARGET])

    def best(among: Iterable[tuple[float, float]]) -> Edit:
        return written(max(among, key=lambda pair: found[pair]))  # of equals the first, which is the smallest

    return Target(
        gamma=(bench.correlation(TARGET, tasks[0]), bench.correlation(TARGET, tasks[1])),
        finetuned=bench.finetuned(TARGET),
        alone=(written((1.0, 0.0)).accuracies[0], written((0.0, 1.0)).accuracies[0]),
        grid=[[found[first, second] for second in coefficients] for first in coefficients],
        best=best(pairs),
        single=(best(pair for pair in pairs if not pair[1]), best(pair for pair in pairs if not pair[0])),
    )
