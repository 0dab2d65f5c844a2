"""The rows of a sweep: a model edited in memory at each alpha, or at the best coefficients of a search."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from taskarith.checkpoints.reader import fingerprint_bytes
from taskarith.checkpoints.units import Units
from taskarith.edit.edit import Edit
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.evaluation.edited import LazyEdit
from taskarith.evaluation.measurement import Measurement
from taskarith.evaluation.questions import Asked
from taskarith.evaluation.records import Record
from taskarith.evaluation.run import Row, row_name
from taskarith.progress import Listener
from taskarith.sweeps.gradient_search import descend
from taskarith.sweeps.optuna_search import try_coefficients
from taskarith.sweeps.result import leveled, row_halves
from taskarith.sweeps.rule import Rule
from taskarith.sweeps.search_options import SearchOptions
from taskarith.sweeps.search_space import Space, find_parts
from taskarith.sweeps.trial import Trial, TrialModel

__all__ = ["FINALISTS", "SweepRows"]

FINALISTS = 3
"""Number of trials of a search that are measured in full; all others only by their losses."""


@dataclass
class SweepRows:
    """A sweep in progress.

    :param edit: The edit to scale by each alpha, or whose coefficients to search.
    :param fingerprints: Fingerprint of each text.
    :param edits: The edit of each row.
    :param names: Names of the coefficients of a search.
    :param trials: Trials of a search.
    """

    edit: Edit
    measurement: Measurement
    reference: str | None
    aim: Rule
    search: SearchOptions
    fingerprints: Mapping[str, str]
    listener: Listener
    edits: dict[str, Edit] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    trials: list[Trial] = field(default_factory=list)

    def __call__(self, asked: Asked, done: Mapping[str, Sequence[Record]], units: Units) -> Iterator[Row]:
        """Yield a row for each alpha, 0 first, or for 0 and the best trials of a search."""
        loaded = asked.loaded
        alphas = () if self.search.is_search else sorted(set(self.search.alphas) - {0.0})
        with LazyEdit(loaded, self.edit, self.listener) as lazy:
            for alpha in (0.0, *alphas):
                name = row_name(loaded.name, alpha)
                self.edits[name] = edit = replace(self.edit, alpha=alpha)
                yield Row(name, partial(lazy.make, edit), is_needed=not alpha)
            for number, trial, edit in self._best_trials(asked, done, units, lazy) if self.search.is_search else ():
                name = f"{loaded.name} trial {number}"
                self.edits[name] = edit
                yield Row(name, partial(lazy.make, edit), f" {list(trial.values)}")

    def _best_trials(
        self, asked: Asked, done: Mapping[str, Sequence[Record]], units: Units, lazy: LazyEdit
    ) -> Iterator[tuple[int, Trial, Edit]]:
        """Search on the validation half, and yield number, trial and edit of the best trials."""
        search, halves, memory = self.search, row_halves(next(iter(done.values()))), lazy.memory
        aim = leveled(self.aim, None if self.reference is None else done[self.reference], halves.choosing)
        parts = find_parts(memory.dimensions, search.by)
        space = Space(self.edit, parts, min(search.alphas), max(search.alphas))
        samples = [
            (text, sample) for text, sample in asked.questions.samples if ("loss", text, sample.id) in halves.validation
        ]
        tester = TrialModel(
            asked.loaded, samples, self.measurement, memory, space, aim, search.kl, units.within("search")
        )
        self.names = space.names

        def on_trial(number: int, best: float) -> None:
            self.listener.progress(f"searching | best {best:.3f}", number, search.trials or search.steps)

        if search.trials:
            name = self._study(tester, memory)
            self.trials = try_coefficients(
                tester, search.trials, seed=search.seed, storage=search.storage, name=name, on_trial=on_trial
            )
        else:
            self.trials = descend(tester, search.steps, kl=search.kl, on_trial=on_trial, note=self.listener.note)
        first = {trial.values: number for number, trial in reversed(list(enumerate(self.trials)))}
        best = sorted(first.values(), key=lambda number: tester.objective(self.trials[number].point))
        for number in best[:FINALISTS]:
            yield number, self.trials[number], space.edit_at(self.trials[number].values)

    def _study(self, tester: TrialModel, memory: InMemoryEdit) -> str:
        """Return the name of the study: a fingerprint of everything that trials depend on."""
        space = tester.space
        problem: list[Any] = [
            self.fingerprints,
            self.measurement.record(),
            str(tester.model.dtype),
            memory.fingerprint(),
        ]
        problem += [space.names, space.low, space.high, repr(tester.aim), self.search.kl]
        return fingerprint_bytes(json.dumps(problem).encode())
