"""The rows of a sweep: one model edited in memory at each alpha, or at the best coefficients that a search finds."""

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
"""Of a search, whose trials are measured by losses only: so many are measured in full."""


@dataclass
class SweepRows:
    """A sweep under way.

    :param edit: What is made at each alpha, or whose coefficients are searched for.
    :param fingerprints: Fingerprint of each text.
    :param edits: Name of each row to its edit.
    :param names: Of the coefficients that a search sets.
    :param trials: What it tried.
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
        """Give the model at each alpha, 0 first; or after 0 the best that a search finds."""
        loaded = asked.loaded
        alphas = () if self.search.is_search else sorted(set(self.search.alphas) - {0.0})
        with LazyEdit(loaded, self.edit, self.listener) as lazy:
            for alpha in (0.0, *alphas):
                name = row_name(loaded.name, alpha)
                self.edits[name] = edit = replace(self.edit, alpha=alpha)
                yield Row(name, partial(lazy.make, edit), is_needed=not alpha)
            for number, trial, edit in self._found(asked, done, units, lazy) if self.search.is_search else ():
                name = f"{loaded.name} trial {number}"
                self.edits[name] = edit
                yield Row(name, partial(lazy.make, edit), f" {list(trial.values)}")

    def _found(
        self, asked: Asked, done: Mapping[str, Sequence[Record]], units: Units, lazy: LazyEdit
    ) -> Iterator[tuple[int, Trial, Edit]]:
        """Search on the validation half, and give number, trial and edit of the best ones."""
        search, halves, memory = self.search, row_halves(next(iter(done.values()))), lazy.memory
        aim = leveled(self.aim, None if self.reference is None else done[self.reference], halves.choosing)
        parts = find_parts(memory.dimensions, search.by)
        space = Space(self.edit, parts, min(search.alphas), max(search.alphas))
        samples = [(text, one) for text, one in asked.questions.samples if ("loss", text, one.id) in halves.validation]
        bench = TrialModel(
            asked.loaded, samples, self.measurement, memory, space, aim, search.kl, units.within("search")
        )
        self.names = space.names

        def on_trial(number: int, best: float) -> None:
            self.listener.progress(f"searching | best {best:.3f}", number, search.trials or search.steps)

        if search.trials:
            name = self._study(bench, memory)
            self.trials = try_coefficients(
                bench, search.trials, seed=search.seed, storage=search.storage, name=name, on_trial=on_trial
            )
        else:
            self.trials = descend(bench, search.steps, kl=search.kl, on_trial=on_trial, note=self.listener.note)
        first = {trial.values: number for number, trial in reversed(list(enumerate(self.trials)))}
        best = sorted(first.values(), key=lambda number: bench.objective(self.trials[number].point))
        for number in best[:FINALISTS]:
            yield number, self.trials[number], space.edit_at(self.trials[number].values)

    def _study(self, bench: TrialModel, memory: InMemoryEdit) -> str:
        """Return the name under which trials are kept: it changes with all that decides them."""
        space = bench.space
        problem: list[Any] = [
            self.fingerprints,
            self.measurement.record(),
            str(bench.model.dtype),
            memory.fingerprint(),
        ]
        problem += [space.names, space.low, space.high, repr(bench.aim), self.search.kl]
        return fingerprint_bytes(json.dumps(problem).encode())
