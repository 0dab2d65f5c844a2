"""A run through the stages: each a call of another verb."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from taskarith.attacks.attack import attack
from taskarith.edit.apply import apply
from taskarith.errors import DataError
from taskarith.evaluation.evaluate import evaluate
from taskarith.progress import Listener
from taskarith.relations.relate import relate
from taskarith.report.attacks import plot_recovery
from taskarith.report.heatmap import draw_relations
from taskarith.report.report import draw_beside, report
from taskarith.report.sweep import plot_sweep
from taskarith.sweeps.sweep import sweep
from taskarith.unlearning.call import Call
from taskarith.unlearning.findings import Choice, Known, read_choice, read_known
from taskarith.unlearning.forecast import LONG, Forecast
from taskarith.unlearning.look import missing
from taskarith.unlearning.result import UnlearnResult
from taskarith.unlearning.stages import Stages
from taskarith.unlearning.steps import Indented, do, learn_vector
from taskarith.unlearning.task import Task

__all__ = ["Run", "make_result", "planned"]

_BY_BUDGET = (
    "Alpha is what forgets most within the budget; that rule does not say whether the text is forgotten. The numbers "
    "do, as far as there is a model that never saw it."
)
_UNSURE = (
    "It is not shown that the text is forgotten: the rule holds on the samples that chose alpha, and not on the others."
)
_LEARNING = {"forget": "learn the text to forget", "retain": "learn the texts to keep"}
_ROWS_OF_ATTACK, _ROWS_OF_QUICK_ATTACK, _ROWS_OF_RELATION, _ROWS_WITH_LAYERS = 8, 3, 2, 3
"""Measurements of a model that other work takes about as long as: attacks of one, relating two vectors, and one that
reads its layers, too."""


@dataclass
class Run:
    """A run in progress.

    :param task: What is to be forgotten, and how.
    :param stages: Those of the run.
    :param listener: Is told what was found.
    :param compromise: Write the best compromise if no alpha meets the rule.
    :param sizes: Characters of each text, by how it is named.
    """

    task: Task
    stages: Stages
    listener: Listener
    compromise: bool
    sizes: Mapping[str, int]

    def run(self, start: float) -> UnlearnResult:
        """Go through the stages."""
        task, listener = self.task, self.listener
        known = self._measure_before()
        listener.note(f"loss of the text to forget, in nats a token: {known.sentence}")
        if known.is_shown is False:
            verdict = (
                "It is not shown that the model knows the text, so that there is nothing to forget. "
                f"Loss of the text: {known.sentence}."
            )
            return self._end("nothing to forget", None, [verdict], ["before"], start)
        if (left := self._seconds_left()) > LONG:
            listener.note(f"learning tells its own time; all else will take about {left / 60:.0f} min, as this shows")
        for number, (name, texts) in enumerate(task.lessons.items()):
            learn_vector(self.stages, task, name, texts, _LEARNING[name], partial(self._forecast, number))
        relation = self._relate()
        choice = self._sweep(known)
        alpha = choice.alpha
        if alpha == 0:
            verdict = "The model knows the text no better than the level to reach: there is nothing to forget."
            return self._end("nothing to forget", None, [verdict], ["before", "sweep", *relation], start)
        if alpha is None and self.compromise:
            alpha = choice.compromise
        if alpha is None:
            for row in choice.trade_off:
                listener.note("alpha {:g}: loss of the text to forget {:.2f}, of those to keep {:.2f}".format(*row))
            return self._end("not reached", None, [_unmet(choice, task)], ["before", "sweep", *relation], start)
        self._do("write the edited model", task.apply(alpha), apply, after=("sweep", *self._vectors))
        edited = str(task.folder / "edited")
        self._do(
            "measure the edited model",
            task.measure((task.model, edited), "after"),
            self._evaluate("after"),
            after=("edited",),
        )
        folders = ["sweep", "after", *self._attack(), *relation]
        if choice.alpha is None:
            return self._end("compromise", alpha, [_unmet(choice, task)], folders, start)
        if task.budget is not None:
            return self._end("edited", alpha, [_BY_BUDGET], folders, start)
        return self._end(
            "forgotten" if choice.holds else "edited", alpha, [] if choice.holds else [_UNSURE], folders, start
        )

    def _seconds_left(self) -> float:
        """Estimate how long measuring and attacking will take, by the measurement of the model."""
        task = self.task
        references = 1 if task.reference else 0
        after = (2 + references) * (_ROWS_WITH_LAYERS if task.measurement.lens else 1)
        attacks = (1 + references) * (_ROWS_OF_QUICK_ATTACK if task.quick else _ROWS_OF_ATTACK)
        relation = _ROWS_OF_RELATION if task.keep else 0
        rows = relation + len(task.alphas) + references + after + attacks
        return rows * self.stages.seconds("before") / (1 + references)

    def _forecast(self, number: int, listener: Listener) -> Forecast:
        """Return a listener for the lesson of this number that tells how long it and all that follows will take."""
        sizes = [sum(self.sizes[text] for text in texts) for texts in self.task.lessons.values()][number:]
        return Forecast(listener, sum(sizes) / sizes[0], self._seconds_left())

    @property
    def _vectors(self) -> tuple[str, ...]:
        return tuple(self.task.vector(name).name for name in self.task.lessons)

    def _measure_before(self) -> Known:
        task = self.task
        self._do("measure the model", task.measure((task.model,), "before"), self._evaluate("before"))
        return read_known(task.folder / "before", task.model, task.reference, task.holdout)

    def _relate(self) -> list[str]:
        """Tell how the vectors relate, if there are two; return the names of outputs."""
        if not self.task.keep:
            return []
        try:
            self._do(
                "relate the vectors",
                self.task.relate(),
                partial(relate, draw=self._drawing("relation", draw_relations)),
                after=self._vectors,
            )
        except DataError as error:
            self.listener.note(f"not related: {error.message}")
            return []
        return ["relation"]

    def _sweep(self, known: Known) -> Choice:
        task = self.task
        target = None if task.reference or task.budget is not None else known.level
        self._do(
            "choose alpha",
            task.sweep(target),
            partial(sweep, draw=self._drawing("sweep", plot_sweep)),
            after=self._vectors,
        )
        return read_choice(task.folder / "sweep")

    def _attack(self) -> list[str]:
        """Attack the edited model; return the names of outputs."""
        try:
            self._do(
                "attack the edited model",
                self.task.attack(),
                partial(attack, draw=self._drawing("attack", plot_recovery)),
                ("edited",),
            )
        except DataError as error:
            self.listener.note(f"not attacked: {error.message}")
            return []
        return ["attack"]

    def _evaluate(self, name: str) -> Any:
        return partial(evaluate, draw=self._drawing(name))

    def _drawing(self, name: str, plot: Any = None) -> Any:
        return draw_beside(self.task.folder / name, Indented(self.listener), plot)

    def _do(self, what: str, call: Call, verb: Any, after: tuple[str, ...] = ()) -> None:
        do(self.stages, what, call, verb, after)

    def _end(
        self, outcome: str, alpha: float | None, verdicts: list[str], folders: list[str], start: float
    ) -> UnlearnResult:
        task = self.task
        title = f"Forgetting {Path(task.forget).name}"
        page = report(
            [task.folder / name for name in folders], task.folder / "report.html", title=title, overwrite=True
        )
        self.listener.note(f"report: {page.path}")
        if others := self.stages.others():
            self.listener.note(f"not of this run, but of an earlier one with other settings: {', '.join(others)}")
        found = (*verdicts, *page.verdicts)
        return make_result(task, outcome, alpha, found, (page.path,), self.stages.commands, start)


def planned(task: Task) -> list[str]:
    """Return the commands of all stages, as far as they are known before the first."""
    calls = [task.measure((task.model,), "before")]
    for name, texts in task.lessons.items():
        calls += [task.learn(texts, task.learned(name)), *([] if task.learning.lora else [task.extract(name)])]
    calls += [task.relate()] if task.keep else []
    calls += [task.sweep(None), task.apply(1.0)]
    calls += [task.measure((task.model, str(task.folder / "edited")), "after"), task.attack()]
    return [str(call) for call in calls]


def _unmet(choice: Choice, task: Task) -> str:
    reason = f"No alpha meets the rule: {choice.reason}."
    if task.reference:
        reason = reason.replace(task.reference, Path(task.reference).name)
    if choice.compromise is None:
        return reason
    return f"{reason} The best compromise is alpha {choice.compromise:g} (unlearn --compromise writes it)."


def make_result(
    task: Task,
    outcome: str,
    alpha: float | None,
    verdicts: Sequence[str],
    pages: Sequence[Path],
    commands: Sequence[str],
    start: float,
) -> UnlearnResult:
    """Return the result of a run.

    :param pages: The report, or nothing.
    :param start: When it began, by ``time.perf_counter``.
    """
    return UnlearnResult(
        output_dir=task.folder,
        outcome=outcome,
        alpha=alpha,
        verdicts=tuple(verdicts),
        missing=missing(task),
        edited=None if alpha is None else task.folder / "edited",
        report=next(iter(pages), None),
        commands=tuple(commands),
        seconds=time.perf_counter() - start,
    )
