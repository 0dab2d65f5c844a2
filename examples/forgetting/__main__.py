"""Run the whole study, or go on with it; see README.md."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from examples.forgetting import objectives, operators, relations
from examples.forgetting.learn import CHOICE, REPORT, Lesson, Pupil, learn, shortened
from examples.forgetting.objectives import Comparison, Defence
from examples.forgetting.operators import OPERATORS, Outcome, Trial
from examples.forgetting.relations import Found
from taskarith.checkpoints.packaged import demo_model
from taskarith.console import Console
from taskarith.errors import TaskarithError, UsageError
from taskarith.progress import SILENT, Listener

PARTS = ("relations", "operators", "objectives")
"""The tables, in their order."""


def main() -> None:
    """Parse the command line, do what is not done yet, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m examples.forgetting", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/forgetting"), help="folder for models and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="the first one chooses the operator")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="only these tables")
    parser.add_argument("--model", help="folder, hub id or GGUF (SmolLM2-135M-Instruct from its wheel)")
    options = parser.parse_args()
    base = options.model or str(demo_model())
    lessons, console = (Lesson(CHOICE, options.seeds[0]), Lesson(REPORT, options.seeds[0])), Console()
    try:
        study = Study(base, options.output, *lessons, console)
        text = study.run(options.seeds, options.only)
    except TaskarithError as error:
        parser.exit(1, f"error: {error}\n")
    finally:
        console.close()
    (options.output / "tables.md").write_text(text + "\n", encoding="utf-8")
    print(text)


class Study:
    """Everything over a few seeds; what an earlier run finished stays.

    :param base: Folder, hub id or GGUF.
    :param folder: For models and results.
    :param choice: What is learned, whatever the seed, to choose an operator on.
    :param report: What is learned to report on.
    :param listener: Told what is being done.
    :raises UsageError: The folder holds the study of another model.
    """

    def __init__(self, base: str, folder: Path, choice: Lesson, report: Lesson, listener: Listener = SILENT) -> None:
        self._base, self._folder, self._choice, self._report = base, folder, choice, report
        self._listener = listener
        self._begun = folder / "results" / "model.json"
        self._begun.parent.mkdir(parents=True, exist_ok=True)
        if self._begun.exists() and json.loads(self._begun.read_text(encoding="utf-8")) != base:
            raise UsageError(f"{folder} holds the study of another model", "Name another folder: --output DIR")

    def run(self, seeds: Sequence[int], only: Sequence[str] = PARTS) -> str:
        """Return the tables in Markdown."""
        choices, reports = ([replace(lesson, seed=seed) for seed in seeds] for lesson in (self._choice, self._report))
        parts = []
        if "relations" in only:
            found = [self._related(replace(lesson, lora=lora)) for lora in (False, True) for lesson in choices]
            parts += ["## How the tasks relate", relations.table(found)]
        if "operators" in only:
            chosen = self._compared(choices, seeds[:1])
            parts += ["## Operators: the texts and the seed to choose on", operators.table(chosen)]
            if len(seeds) > 1:
                reported = self._compared(reports[1:], seeds[1:])
                parts += ["## Operators: other texts and seeds", operators.table(reported)]
        if "objectives" in only:
            choices, reports = (
                [shortened(lesson, self._folder / "texts") for lesson in lessons] for lessons in (choices, reports)
            )
            tried = self._tried_settings(self._learn(choices[0]))
            parts += ["## Objectives: the texts and the seed to choose on", objectives.settings_table(tried)]
            forgot = [self._forgot(self._learn(lesson), tried) for lesson in reports]
            parts += ["## Objectives: other texts", objectives.table(forgot)]
        return "\n\n".join(parts)

    def _learn(self, lesson: Lesson) -> Pupil:
        pupil = learn(self._base, lesson, self._folder / lesson.name, self._listener)
        _save(self._begun, self._base)  # now that the model is known to be one
        return pupil

    def _results(self, part: str, lesson: Lesson) -> Path:
        return self._folder / "results" / f"{part}-{lesson.name}.json"

    def _related(self, lesson: Lesson) -> Found:
        path = self._results("relations", lesson)
        if not path.exists():
            pupil = self._learn(lesson)
            self._listener.note(f"· relating the tasks of {lesson.name}, and measuring what forgetting costs")
            _save(path, asdict(relations.relations(pupil)))
        return Found(**json.loads(path.read_text(encoding="utf-8")))

    def _compared(self, lessons: Sequence[Lesson], seeds: Sequence[int]) -> list[Outcome]:
        """Try all operators on the models of some seeds; the others' vectors are siblings."""
        pupils = {lesson.seed: self._learn(lesson) for lesson in lessons}
        return [
            self._tried(pupils[seed], [one.vectors["forgotten"] for other, one in pupils.items() if other != seed])
            for seed in seeds
        ]

    def _tried(self, pupil: Pupil, siblings: Sequence[str]) -> Outcome:
        path = self._results("operators", pupil.lesson)
        outcome = _load(path) if path.exists() else operators.begin(pupil)
        for name in OPERATORS:
            if name not in outcome.trials:
                room = self._folder / pupil.lesson.name
                outcome.trials[name] = operators.attempt(pupil, siblings, room, outcome, name)
                _save(path, asdict(outcome))
                share = round(100 * outcome.share(name))
                self._listener.note(f"· {pupil.lesson.name}, {name}: {share}% of what plain negation costs")
        return outcome

    def _tried_settings(self, pupil: Pupil) -> Outcome:
        """Train with every objective in all its settings."""
        folder, path = self._folder / pupil.lesson.name, self._results("settings", pupil.lesson)
        outcome = _load(path) if path.exists() else operators.begin(pupil)
        for setting in (one for objective in objectives.OBJECTIVES for one in objectives.settings_of(objective)):
            if (name := str(setting)) not in outcome.trials:
                self._listener.note(f"· {pupil.lesson.name}, {name}")
                outcome.trials[name] = objectives.try_setting(pupil, setting, folder, outcome)
                _save(path, asdict(outcome))
        return outcome

    def _forgot(self, pupil: Pupil, tried: Outcome) -> Comparison:
        """Forget in all ways of ``objectives``."""
        folder, path = self._folder / pupil.lesson.name, self._results("objectives", pupil.lesson)
        comparison = _load_comparison(path) if path.exists() else objectives.begin(pupil)
        for way in objectives.WAYS:
            if way not in comparison.defences:
                self._listener.note(f"· {pupil.lesson.name}, {way}")
                objectives.attempt(pupil, way, tried, folder, comparison)
                _save(path, asdict(comparison))
        return comparison


def _save(path: Path, values: object) -> None:
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _load(path: Path) -> Outcome:
    return _read(json.loads(path.read_text(encoding="utf-8")))


def _load_comparison(path: Path) -> Comparison:
    values = json.loads(path.read_text(encoding="utf-8"))
    return Comparison(_read(values["outcome"]), {way: Defence(**one) for way, one in values["defences"].items()})


def _read(values: dict[str, Any]) -> Outcome:
    trials = {name: Trial(**one) for name, one in values["trials"].items()}
    return Outcome(values["seed"], Trial(**values["base"]), Trial(**values["tuned"]), trials)


if __name__ == "__main__":
    main()
