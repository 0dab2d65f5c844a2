"""Run the whole study, or go on with it; see README.md."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from examples.forgetting import operators, relations
from examples.forgetting.learn import CHOICE, REPORT, Lesson, Pupil, learn
from examples.forgetting.operators import OPERATORS, Outcome, Trial
from examples.forgetting.relations import Found
from taskarith.console import Console
from taskarith.demo.model import demo_model
from taskarith.errors import TaskarithError, UsageError
from taskarith.progress import SILENT, Listener


def main() -> None:
    """Parse the command line, do what is not done yet, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m examples.forgetting", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/forgetting"), help="folder for models and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="the first one chooses the operator")
    parser.add_argument("--model", help="folder, hub id or GGUF (SmolLM2-135M-Instruct from its wheel)")
    options = parser.parse_args()
    base = options.model or str(demo_model())
    lessons, console = (Lesson(CHOICE, options.seeds[0]), Lesson(REPORT, options.seeds[0])), Console()
    try:
        study = Study(base, options.output, *lessons, console)
        text = study.run(options.seeds)
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

    def run(self, seeds: Sequence[int]) -> str:
        """Return all tables in Markdown."""
        choices, reports = ([replace(lesson, seed=seed) for seed in seeds] for lesson in (self._choice, self._report))
        found = [self._related(replace(lesson, lora=lora)) for lora in (False, True) for lesson in choices]
        parts = ["## How the tasks relate", relations.table(found)]
        chosen = self._compared(choices, seeds[:1])
        parts += ["## Operators: the texts and the seed to choose on", operators.table(chosen)]
        if len(seeds) > 1:
            reported = self._compared(reports[1:], seeds[1:])
            parts += ["## Operators: other texts and seeds", operators.table(reported)]
        return "\n\n".join(parts)

    def _learn(self, lesson: Lesson) -> Pupil:
        pupil = learn(self._base, lesson, self._folder / lesson.name, self._listener)
        _save(self._begun, self._base)  # now that the model is known to be one
        return pupil

    def _related(self, lesson: Lesson) -> Found:
        path = self._folder / "results" / f"relations-{lesson.name}.json"
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
        path = self._folder / "results" / f"operators-{pupil.lesson.name}.json"
        outcome = _load(path) if path.exists() else operators.begin(pupil)
        for name in OPERATORS:
            if name not in outcome.trials:
                room = self._folder / pupil.lesson.name
                outcome.trials[name] = operators.attempt(pupil, siblings, room, outcome, name)
                _save(path, asdict(outcome))
                share = round(100 * outcome.share(name))
                self._listener.note(f"· {pupil.lesson.name}, {name}: {share}% of what plain negation costs")
        return outcome


def _save(path: Path, values: object) -> None:
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _load(path: Path) -> Outcome:
    values = json.loads(path.read_text(encoding="utf-8"))
    trials = {name: Trial(**one) for name, one in values["trials"].items()}
    return Outcome(values["seed"], Trial(**values["base"]), Trial(**values["tuned"]), trials)


if __name__ == "__main__":
    main()
