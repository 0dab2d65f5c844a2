"""The measurement of one model on all texts, as records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from taskarith.checkpoints.team import ALONE, Team
from taskarith.checkpoints.units import Units
from taskarith.data.tokens import Sample
from taskarith.errors import MismatchError
from taskarith.evaluation.answers import answer_records
from taskarith.evaluation.batches import Batching, batch_start
from taskarith.evaluation.extras import extra_records
from taskarith.evaluation.generation import continue_greedily
from taskarith.evaluation.lens import find_lens, read_layers
from taskarith.evaluation.loss import CachedReference, keep_states, score_samples, split_model
from taskarith.evaluation.measurement import Measurement
from taskarith.evaluation.metrics.membership import zlib_bytes
from taskarith.evaluation.models import Loaded
from taskarith.evaluation.questions import Asked, Questions
from taskarith.evaluation.read_records import read_rows
from taskarith.evaluation.records import (
    Record,
    continuation_record,
    divergence_record,
    lens_record,
    loss_record,
    token_fields,
    unreadable_record,
)

__all__ = ["Reference", "keep_reference", "measure"]


@dataclass(frozen=True)
class Reference:
    """The row that others are compared with, token by token.

    :param name: Name of its row.
    :param questions: Its samples and prompts.
    :param vocabulary: Size of its next-token distributions.
    :param kept: Its stored states; None if the model cannot be split.
    """

    name: str
    questions: Questions
    vocabulary: int | None
    kept: CachedReference | None

    def mismatch(self, loaded: Loaded, questions: Questions) -> str | None:
        """Return why a model's distributions are not comparable with these, or None if they are."""
        if questions.samples != self.questions.samples:
            return f"its tokens differ from those of {self.name}"
        if self.vocabulary != _vocabulary(loaded):
            return f"its vocabulary differs in size from that of {self.name}"
        return None if self.kept else f"{self.name} changes its logits after the output layer"


def measure(
    asked: Asked,
    measurement: Measurement,
    row: str,
    on_share: Callable[[float], None],
    *,
    reference: Reference | None = None,
    keep: bool = False,
    team: Team = ALONE,
    units: Units | None = None,
) -> tuple[list[Record], Reference | None]:
    """Run a model over all samples, other answers and prompts, and record each of them.

    :param asked: The loaded model and its questions.
    :param row: Name of the row the records belong to.
    :param on_share: Receives the finished share of the work, from 0 to 1.
    :param reference: A comparable row to compare this one with.
    :param keep: Also return a reference for later rows.
    :param team: The processes that make this call and share the batches; all get all records.
    :param units: Where finished batches of the row are stored.
    :raises CheckpointError: A loss is not finite.
    """
    run = _run(asked, measurement, row, on_share, team, units)
    records, kept = run.losses(reference, keep=keep)
    more = run.answers(records) + run.continuations() + run.layers() + run.extras()
    return records + more, kept


def keep_reference(
    asked: Asked,
    measurement: Measurement,
    row: str,
    on_share: Callable[[float], None],
    team: Team = ALONE,
) -> Reference | None:
    """Return a reference for later rows from a row whose records exist already; see ``measure``."""
    return _run(asked, measurement, row, on_share, team, None).losses(None, keep=True)[1]


def _run(
    asked: Asked,
    measurement: Measurement,
    row: str,
    on_share: Callable[[float], None],
    team: Team,
    units: Units | None,
) -> _Run:
    done, cost = 0, asked.questions.cost(measurement.continuation_tokens)

    def on_tokens(count: int) -> None:
        nonlocal done
        done = min(done + count * team.size, cost)  # a batch that ran out of memory is counted again
        on_share(done / cost)

    on_share(0.0)
    return _Run(asked.loaded, asked.questions, measurement, row, on_tokens, team, units or Units())


@dataclass(frozen=True)
class _Run:
    """The measurement of one row: each method runs the model on one kind of question and returns its records."""

    loaded: Loaded
    questions: Questions
    measurement: Measurement
    row: str
    on_tokens: Callable[[int], None]
    team: Team
    units: Units

    def losses(self, reference: Reference | None, *, keep: bool) -> tuple[list[Record], Reference | None]:
        samples = [sample for _, sample in self.questions.samples]
        if not samples:
            return [], None
        split = split_model(self.loaded.model, samples[0])
        size, shrink = self._batch_size("losses", max(len(sample.input_ids) for sample in samples), cached=False)
        beside = reference.kept if reference else None
        states: dict[int, torch.Tensor] = {}
        scores = score_samples(
            self.loaded.model,
            samples,
            self._batching(beside.batch_size if beside else size, shrink, "losses"),
            split=split,
            keep=states if keep and split.is_split else None,
            reference=beside,
        )
        records = [
            loss_record(
                self.row,
                text,
                sample.id,
                score.nll,
                score.tokens,
                score.correct,
            )
            | token_fields(
                losses=score.losses,
                hits=score.hits,
                z_scores=score.z_scores,
                end_tokens=sample.end_tokens,
                zlib_bytes=zlib_bytes(_learned_text(self.loaded, sample)),
            )
            for (text, sample), score in zip(self.questions.samples, scores, strict=True)
        ]
        records += [
            divergence_record(self.row, text, sample.id, reference.name, score.kl, score.agreed, score.tokens)
            for (text, sample), score in zip(self.questions.samples, scores, strict=True)
            if reference and score.kl is not None and score.agreed is not None
        ]
        if not keep:
            return records, None
        kept = keep_states(split, states, size) if split.is_split else None
        return records, Reference(self.row, self.questions, _vocabulary(self.loaded), kept)

    def answers(self, losses: Sequence[Record]) -> list[Record]:
        """Score all paraphrased and wrong answers; losses of the right ones are recorded already."""
        samples = [sample for answers in self.questions.answers for sample in answers.samples]
        if not samples:
            return []
        size, shrink = self._batch_size("answers", max(len(sample.input_ids) for sample in samples), cached=False)
        scores = score_samples(self.loaded.model, samples, self._batching(size, shrink, "answers"))
        rights = {(r["text"], r["sample"]): r["nll"] / r["tokens"] for r in losses if r["kind"] == "loss"}
        others = [score.nll / score.tokens for score in scores]
        return answer_records(self.row, self.questions.answers, rights, others)

    def continuations(self) -> list[Record]:
        records = []
        for tokens, prompts in self.questions.prompts_by_length(self.measurement.continuation_tokens).items():
            longest = max(len(prompt.input_ids) for _, prompt in prompts) + tokens
            stage = f"continuations of {tokens} tokens"
            size, shrink = self._batch_size(stage, longest, cached=True)
            continuations = continue_greedily(
                self.loaded.model,
                self.loaded.tokenizer,
                [prompt for _, prompt in prompts],
                self._batching(size, shrink, stage),
                max_new_tokens=tokens,
                end_ids=self.loaded.end_ids,
            )
            records += [
                continuation_record(self.row, text, prompt.id, prompt.text, prompt.reference, continuation)
                for (text, prompt), continuation in zip(prompts, continuations, strict=True)
            ]
        return records

    def layers(self) -> list[Record]:
        """Return the losses of the first samples of each text at every layer, or why there are none."""
        chosen = self.questions.first_samples(self.measurement.lens)
        if not chosen:
            return []
        samples = [sample for _, sample in chosen]
        try:
            lens = find_lens(self.loaded.model, samples[0].input_ids)
            found = read_layers(lens, samples, Batching(1, team=self.team, units=self.units.within("lens")))
        except MismatchError as error:
            return [unreadable_record(self.row, text, sample.id, error.message) for text, sample in chosen]
        counts = [len(sample.input_ids) - max(sample.prompt_length, 1) for sample in samples]
        return [
            lens_record(self.row, text, sample.id, losses, count)
            for (text, sample), losses, count in zip(chosen, found, counts, strict=True)
        ]

    def extras(self) -> list[Record]:
        """Return the records of sampled continuations and gradients, stored as one unit."""
        known = self.team.by_first(lambda: self.units.get("extras", partial(read_rows, self.row)))
        if known is None:
            known = extra_records(self.loaded, self.questions, self.measurement, self.row, self.team)
            if known:
                self.units.put("extras", known)
        return known

    def _batching(self, size: int, shrink: bool, stage: str) -> Batching:
        return Batching(size, shrink, self.on_tokens, self.team, self.units.within(stage))

    def _batch_size(self, stage: str, longest: int, *, cached: bool) -> tuple[int, bool]:
        """Return the batch size, equal in all processes and after an interruption, and whether it may shrink."""
        if self.measurement.batch_size != "auto":
            return self.measurement.batch_size, False
        size = min(self.team.gather(batch_start(self.loaded.model, longest, cached=cached)))
        if self.loaded.device.type == "cuda":  # it depends on the memory free right now
            name = f"{stage}, items of a batch"
            known = self.team.by_first(lambda: self.units.get(name, _read_size))
            if known is None:
                self.units.put(name, size)
            size = known or size
        return size, True


def _read_size(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("it is not a number of items")
    return value


def _learned_text(loaded: Loaded, sample: Sample) -> str:
    """Return the scored text: the completion of a row, or the block of plain text."""
    return str(loaded.tokenizer.decode(list(sample.input_ids[sample.prompt_length :]), skip_special_tokens=True))


def _vocabulary(loaded: Loaded) -> int | None:
    head = loaded.model.get_output_embeddings()
    return getattr(head, "out_features", None)
