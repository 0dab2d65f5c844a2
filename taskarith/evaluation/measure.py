"""One model on all texts: what it is asked, in one stream over the texts, and the records of what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from taskarith.checkpoints.team import ALONE, Team
from taskarith.errors import UsageError
from taskarith.evaluation.answers import Answers, answer_records, ask_part
from taskarith.evaluation.batches import batch_start
from taskarith.evaluation.benchmarks import Part
from taskarith.evaluation.extras import extra_records
from taskarith.evaluation.families import KNOWMEM
from taskarith.evaluation.generation import Prompt, continue_greedily, make_prompts
from taskarith.evaluation.loss import Kept, keep_states, score_samples, split_model
from taskarith.evaluation.metrics.membership import zlib_bytes
from taskarith.evaluation.models import Loaded
from taskarith.evaluation.records import Record, continuation_record, divergence_record, loss_record
from taskarith.progress import SILENT, Listener
from taskarith.training.data import DataSet
from taskarith.training.documents import RowForm
from taskarith.training.tokens import Sample, fingerprint_samples, tokenize

__all__ = ["Questions", "Reference", "Settings", "ask", "measure"]


@dataclass(frozen=True)
class Settings:
    """How to measure; see ``evaluate`` for each.

    :raises UsageError: A value is out of range.
    """

    block_size: int
    prompts: int
    prompt_tokens: int
    continuation_tokens: int
    batch_size: int | Literal["auto"]
    limit: int | None = None
    apply_chat_template: bool = False
    system_prompt: str = ""
    draws: int = 0
    gradient_norms: bool = False
    seed: int = 42

    @property
    def form(self) -> RowForm:
        """How questions and chats are written."""
        return RowForm(self.apply_chat_template, self.system_prompt)

    def record(self) -> dict[str, Any]:
        """Return all as plain values; what came later only where it is used, as in records before there was any."""
        later = {"system_prompt": self.system_prompt, "draws": self.draws, "gradient_norms": self.gradient_norms}
        later["seed"] = self.draws
        return {name: value for name, value in asdict(self).items() if later.get(name, True)}

    def __post_init__(self) -> None:
        least = {"block_size": 2, "prompts": 0, "prompt_tokens": 1, "continuation_tokens": 1, "draws": 0}
        if self.batch_size != "auto":
            least["batch_size"] = 1
        if self.limit is not None:
            least["limit"] = 1
        for name, smallest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < smallest:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} {value} is out of range", f"Use {smallest} or more.")


@dataclass(frozen=True)
class Questions:
    """Samples, prompts and other answers of all texts, with the names of their texts."""

    samples: tuple[tuple[str, Sample], ...]
    prompts: tuple[tuple[str, Prompt], ...]
    answers: tuple[Answers, ...] = ()

    def prompts_by_length(self, continuation_tokens: int) -> dict[int, list[tuple[str, Prompt]]]:
        """Return the prompts by the tokens to generate: their own number of them, or the one given."""
        found: dict[int, list[tuple[str, Prompt]]] = {}
        for text, prompt in self.prompts:
            found.setdefault(prompt.new_tokens or continuation_tokens, []).append((text, prompt))
        return found

    @property
    def ids(self) -> tuple[tuple[str, str], ...]:
        """Text and id of every sample."""
        return tuple((text, sample.id) for text, sample in self.samples)

    def fingerprints(self) -> dict[str, str]:
        """Return by text a fingerprint over the tokens of its samples, its other answers and its prompts."""
        found: dict[str, list[Sample]] = {}
        for text, sample in self.samples:
            found.setdefault(text, []).append(sample)
        for answers in self.answers:
            found.setdefault(answers.text, []).extend(answers.samples)
        for text, prompt in self.prompts:
            found.setdefault(text, []).append(Sample(prompt.id, prompt.input_ids, len(prompt.input_ids)))
        return {text: fingerprint_samples(samples) for text, samples in found.items()}

    def cost(self, continuation_tokens: int) -> int:
        """Tokens to read for the losses, and to write."""
        samples = [*(sample for _, sample in self.samples), *(s for answers in self.answers for s in answers.samples)]
        written = sum(prompt.new_tokens or continuation_tokens for _, prompt in self.prompts)
        return sum(len(sample.input_ids) for sample in samples) + written


def ask(
    loaded: Loaded,
    texts: Mapping[str, DataSet],
    settings: Settings,
    benchmark: Sequence[Part] = (),
    listener: Listener = SILENT,
) -> Questions:
    """Tokenise all texts for a model.

    :param benchmark: More texts, from ``load_benchmark``.
    :param listener: Told what of the texts cannot be measured.
    :raises DataError: A text is too short, or its rows are too long.
    :raises UsageError: A block or a prompt with its continuation is longer than the model has positions.
    """
    limit = loaded.positions
    if texts:
        loaded.check_block(settings.block_size)
    samples: list[tuple[str, Sample]] = []
    prompts: list[tuple[str, Prompt]] = []
    for name, data in texts.items():
        found = tokenize(data, loaded.tokenizer, settings.block_size, listener)
        made = make_prompts(
            data,
            found,
            loaded.tokenizer,
            prompts=settings.prompts,
            prompt_tokens=settings.prompt_tokens,
            continuation_tokens=settings.continuation_tokens,
            whole_truth=name in KNOWMEM,
        )
        samples.extend((name, sample) for sample in found)
        prompts.extend((name, prompt) for prompt in made)
    _refuse_long_prompts(prompts, loaded, settings.continuation_tokens)
    answers: list[Answers] = []
    for part in benchmark:
        asked = ask_part(part, loaded.tokenizer, positions=limit, form=settings.form, listener=listener)
        samples.extend((part.name, sample) for sample in asked.samples)
        prompts.extend((part.name, prompt) for prompt in asked.prompts)
        answers.extend(asked.answers)
    return Questions(tuple(samples), tuple(prompts), tuple(answers))


def _refuse_long_prompts(prompts: Sequence[tuple[str, Prompt]], loaded: Loaded, continuation_tokens: int) -> None:
    limit = loaded.positions
    long = [p for _, p in prompts if limit is not None and len(p.input_ids) + continuation_tokens > limit]
    if long:
        worst = max(long, key=lambda prompt: len(prompt.input_ids))
        longest = len(worst.input_ids) + continuation_tokens
        raise UsageError(
            f"{len(long)} of {len(prompts)} prompts with their continuation take more than the {limit} positions of "
            f"{loaded.name} (the longest is {worst.id}: {longest} tokens)",
            "Lower --prompt-tokens or --continuation-tokens, or shorten the prompts.",
        )


@dataclass(frozen=True)
class Reference:
    """What rows are compared with token by token.

    :param name: Of its row.
    :param questions: What it was asked.
    :param vocabulary: Choices of its next-token distributions.
    :param kept: What is left of it; None where its output layer cannot be told from the rest.
    """

    name: str
    questions: Questions
    vocabulary: int | None
    kept: Kept | None

    def mismatch(self, loaded: Loaded, questions: Questions) -> str | None:
        """Say why a model's distributions do not compare with these; None if they do."""
        if questions.samples != self.questions.samples:
            return f"its tokens are others than those of {self.name}"
        if self.vocabulary != _vocabulary(loaded):
            return f"its vocabulary has another size than that of {self.name}"
        return None if self.kept else f"the logits of {self.name} are not its output layer's alone"


def measure(
    loaded: Loaded,
    questions: Questions,
    settings: Settings,
    row: str,
    on_share: Callable[[float], None],
    *,
    reference: Reference | None = None,
    keep: bool = False,
    team: Team = ALONE,
) -> tuple[list[Record], Reference | None]:
    """Run a model over all samples, other answers and prompts, and record every one.

    :param row: Name of the row of scores that the records belong to.
    :param on_share: Told how much of the work is done, from 0 to 1.
    :param reference: Another row that this one is to be compared with, where they compare.
    :param keep: Return what later rows can be compared with.
    :param team: The processes that make this call and share the batches; all get all records.
    :raises CheckpointError: A loss is not finite.
    """
    done, cost = 0, questions.cost(settings.continuation_tokens)

    def on_tokens(count: int) -> None:
        nonlocal done
        done = min(done + count * team.size, cost)  # a batch that ran out of memory is counted again
        on_share(done / cost)

    on_share(0.0)
    run = _Run(loaded, questions, settings, row, on_tokens, team)
    if reference is not None and reference.mismatch(loaded, questions):
        reference = None
    records, kept = run.losses(reference, keep=keep)
    more = run.answers(records) + run.continuations() + extra_records(loaded, questions, settings, row, team)
    return records + more, kept


@dataclass(frozen=True)
class _Run:
    """One row at work: each method runs the model over one kind of question and returns its records."""

    loaded: Loaded
    questions: Questions
    settings: Settings
    row: str
    on_tokens: Callable[[int], None]
    team: Team

    def losses(self, reference: Reference | None, *, keep: bool) -> tuple[list[Record], Reference | None]:
        samples = [sample for _, sample in self.questions.samples]
        if not samples:
            return [], None
        halves = split_model(self.loaded.model, samples[0])
        size, shrink = self._batch_size(max(len(sample.input_ids) for sample in samples), cached=False)
        beside = reference.kept if reference else None
        states: dict[int, torch.Tensor] = {}
        scores = score_samples(
            self.loaded.model,
            samples,
            beside.batch_size if beside else size,
            shrink=shrink,
            on_tokens=self.on_tokens,
            halves=halves,
            keep=states if keep and halves.is_split else None,
            reference=beside,
            team=self.team,
        )
        records = [
            loss_record(
                self.row,
                text,
                sample.id,
                score.nll,
                score.tokens,
                score.correct,
                token_losses=score.losses,
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
        kept = keep_states(halves, states, size) if halves.is_split else None
        return records, Reference(self.row, self.questions, _vocabulary(self.loaded), kept)

    def answers(self, losses: Sequence[Record]) -> list[Record]:
        """Score all answers of all questions but the right ones, whose losses are recorded."""
        samples = [sample for answers in self.questions.answers for sample in answers.samples]
        if not samples:
            return []
        size, shrink = self._batch_size(max(len(sample.input_ids) for sample in samples), cached=False)
        scores = score_samples(
            self.loaded.model, samples, size, shrink=shrink, on_tokens=self.on_tokens, team=self.team
        )
        rights = {(r["text"], r["sample"]): r["nll"] / r["tokens"] for r in losses if r["kind"] == "loss"}
        others = [score.nll / score.tokens for score in scores]
        return answer_records(self.row, self.questions.answers, rights, others)

    def continuations(self) -> list[Record]:
        records = []
        for tokens, prompts in self.questions.prompts_by_length(self.settings.continuation_tokens).items():
            longest = max(len(prompt.input_ids) for _, prompt in prompts) + tokens
            size, shrink = self._batch_size(longest, cached=True)
            found = continue_greedily(
                self.loaded.model,
                self.loaded.tokenizer,
                [prompt for _, prompt in prompts],
                max_new_tokens=tokens,
                end_ids=self.loaded.end_ids,
                batch_size=size,
                shrink=shrink,
                on_tokens=self.on_tokens,
                team=self.team,
            )
            records += [
                continuation_record(self.row, text, prompt.id, prompt.text, prompt.reference, continuation)
                for (text, prompt), continuation in zip(prompts, found, strict=True)
            ]
        return records

    def _batch_size(self, longest: int, *, cached: bool) -> tuple[int, bool]:
        """Return the samples of a batch, the same in all processes, and whether it may shrink."""
        if self.settings.batch_size != "auto":
            return self.settings.batch_size, False
        return min(self.team.gather(batch_start(self.loaded.model, longest, cached=cached))), True


def _learned_text(loaded: Loaded, sample: Sample) -> str:
    """Return the text whose tokens are scored: of a row its completion, of plain text the block."""
    return str(loaded.tokenizer.decode(list(sample.input_ids[sample.prompt_length :]), skip_special_tokens=True))


def _vocabulary(loaded: Loaded) -> int | None:
    head = loaded.model.get_output_embeddings()
    return getattr(head, "out_features", None)
