"""One model under all attacks, with a record of every answer in every state."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from transformers import PreTrainedTokenizerBase

from taskarith.attacks.exam import Exam, Options
from taskarith.attacks.quantise import Rounding, quantised
from taskarith.attacks.relearn import relearned
from taskarith.checkpoints.team import ALONE, Team
from taskarith.checkpoints.units import Units
from taskarith.errors import CheckpointError
from taskarith.evaluation.batches import Batching, batch_start
from taskarith.evaluation.generation import Sampling, continue_greedily, continue_sampled
from taskarith.evaluation.measure import measure
from taskarith.evaluation.models import Loaded
from taskarith.evaluation.prompts import Prompt
from taskarith.evaluation.questions import Asked
from taskarith.evaluation.read_records import read_rows
from taskarith.evaluation.records import Record, continuation_record
from taskarith.progress import Listener

__all__ = ["TOP_K", "Examination"]

TOP_K = 50
"""Sampled extraction draws from this many most likely tokens."""


@dataclass
class Examination:
    """One model, measured in every state; its weights are restored bit for bit.

    :param loaded: The model.
    :param role: ``before``, ``edited`` or ``retain``; starts its name in every record.
    :param exam: Samples and prompts of all attacks.
    :param options: Options of the attacks.
    :param listener: Receives notes on every state and its duration.
    :param units: Storage of finished pieces.
    :param team: The processes that make these calls, and share the batches.
    :param records: The records so far.
    """

    loaded: Loaded
    role: str
    exam: Exam
    options: Options
    listener: Listener
    units: Units
    team: Team = ALONE
    records: list[Record] = field(default_factory=list)

    def unattacked(self) -> None:
        """Measure the model without an attack."""
        self._take(self.role, partial(self._measure, self.role))

    def attacked(self) -> None:
        """Measure the model under every attack.

        :raises CheckpointError: A loss is not finite, or there is nothing to quantise.
        :raises TaskarithError: Relearning diverged.
        """
        if "quantise" in self.options.attacks:
            for rounding in self.options.roundings:
                self._take(f"{self.role} {rounding.name}", partial(self._quantised, rounding))
        if self.exam.rephrased:
            self._take(self.role, self._rephrased, "rephrased")
        if self.exam.growing:
            self._take(self.role, self._extracted, "prefixes")
            if self.options.draws:
                self._take(self.role, self._drawn, "prefixes, sampled")
        for source in self.exam.lessons:
            self._relearn(source)

    def _take(self, row: str, act: Callable[[], list[Record]], stage: str = "") -> None:
        """Add the records of one row or stage, measured unless they are stored already."""
        name, start = stage or row, time.perf_counter()
        records = self._known(row, name)
        if records is None:
            records = act()
            self.units.put(name, records)
            self.listener.note(f"{f'{row} {stage}'.strip()}: {time.perf_counter() - start:.1f} s")
        self.records += records

    def _known(self, row: str, name: str) -> list[Record] | None:
        return self.team.by_first(lambda: self.units.get(name, partial(read_rows, row)))

    def _measure(self, row: str) -> list[Record]:
        def on_share(share: float) -> None:
            self.listener.progress(f"measuring {row}", share, 1.0)

        units = self.units.within(row)
        try:
            asked = Asked(self.loaded, self.exam.questions)
            return measure(asked, self.options.unprompted, row, on_share, team=self.team, units=units)[0]
        except CheckpointError as error:
            raise CheckpointError(f"{row} ({self.loaded.name}): {error.message}", error.hint) from error

    def _quantised(self, rounding: Rounding) -> list[Record]:
        with quantised(self.loaded.model, rounding) as (count, share):
            self.listener.note(f"{self.role}: {rounding.name} of {count} tensors, {share:.0%} of the parameters")
            return self._measure(f"{self.role} {rounding.name}")

    def _relearn(self, source: str) -> None:
        """Train once for all step counts, unless all are measured already."""
        lesson, rate, seed = self.exam.lessons[source], self.options.learning_rate, self.options.measurement.seed
        rows = [f"{self.role} {source} {step}" for step in lesson.steps]
        if all(self._known(row, row) is not None for row in rows):
            for row in rows:
                self._take(row, list)
            return
        with closing(relearned(self.loaded, lesson.samples, lesson.steps, rate, seed)) as training:
            for row, _ in zip(rows, training, strict=True):
                self._take(row, partial(self._measure, row))

    def _rephrased(self) -> list[Record]:
        prompts = [(rule, *pair) for rule, pairs in self.exam.rephrased.items() for pair in pairs]
        continuations = self._greedy([prompt for _, _, prompt in prompts], "rephrased")
        return [
            self._record(f"rephrase {rule}", prompt, continuation, prompt.id, group)
            for (rule, group, prompt), continuation in zip(prompts, continuations, strict=True)
        ]

    def _extracted(self) -> list[Record]:
        prompts = [(size, prompt) for size, prompts in self.exam.growing.items() for prompt in prompts]
        continuations = self._greedy([prompt for _, prompt in prompts], "prefixes")
        return [
            self._record(f"prefix {size}", prompt, continuation, prompt.id, prompt.id)
            for (size, prompt), continuation in zip(prompts, continuations, strict=True)
        ]

    def _drawn(self) -> list[Record]:
        prompts = [(size, prompt) for size, prompts in self.exam.growing.items() for prompt in prompts]
        continuations = self.team.by_first(lambda: self._sampled([prompt for _, prompt in prompts]))
        return [
            self._record(f"prefix {size} sampled", prompt, continuation, f"{prompt.id} draw {number}", prompt.id)
            for (size, prompt), draws in zip(prompts, continuations, strict=True)
            for number, continuation in enumerate(draws, 1)
        ]

    def _greedy(self, prompts: Sequence[Prompt], stage: str) -> list[str]:
        size, shrink = self._batch_size(prompts)
        return continue_greedily(
            self.loaded.model,
            self.loaded.tokenizer,
            prompts,
            Batching(size, shrink, team=self.team, units=self.units.within(stage)),
            max_new_tokens=self.options.measurement.continuation_tokens,
            end_ids=self.loaded.end_ids,
        )

    def _sampled(self, prompts: Sequence[Prompt]) -> list[list[str]]:
        size, shrink = self._batch_size(prompts)
        return continue_sampled(
            self.loaded.model,
            self.loaded.tokenizer,
            prompts,
            Batching(size, shrink),
            Sampling(self.options.draws, TOP_K, self.options.measurement.seed),
            max_new_tokens=self.options.measurement.continuation_tokens,
            end_ids=self.loaded.end_ids,
        )

    def _batch_size(self, prompts: Sequence[Prompt]) -> tuple[int, bool]:
        if self.options.measurement.batch_size != "auto":
            return self.options.measurement.batch_size, False
        longest = max(len(prompt.input_ids) for prompt in prompts) + self.options.measurement.continuation_tokens
        return min(self.team.gather(batch_start(self.loaded.model, longest, cached=True))), True

    def _record(self, text: str, prompt: Prompt, continuation: str, sample: str, group: str) -> Record:
        """Record a continuation; of several in a ``group`` the best counts."""
        record = continuation_record(self.role, text, sample, prompt.text, prompt.reference, continuation)
        exact = _exact_share(prompt.reference, continuation, self.loaded.tokenizer)
        return record | {"group": group, "exact_tokens": exact}


def _exact_share(reference: str, continuation: str, tokenizer: PreTrainedTokenizerBase) -> float:
    """Return the share of the true continuation's tokens reproduced before the first mistake."""
    true, made = (
        tokenizer(text, add_special_tokens=False, verbose=False).input_ids for text in (reference, continuation)
    )
    same = next((index for index, pair in enumerate(zip(true, made, strict=False)) if pair[0] != pair[1]), None)
    return (min(len(true), len(made)) if same is None else same) / max(len(true), 1)
