"""Samples and prompts of all texts, tokenised for one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskarith.data.load import DataSet
from taskarith.data.tokens import Sample, fingerprint_samples, tokenize
from taskarith.errors import UsageError
from taskarith.evaluation.answers import Answers, ask_part
from taskarith.evaluation.benchmarks import Part
from taskarith.evaluation.measurement import Measurement
from taskarith.evaluation.models import Loaded, model_record
from taskarith.evaluation.numbers import KNOWMEM
from taskarith.evaluation.prompts import Prompt, make_prompts
from taskarith.progress import SILENT, Listener

__all__ = ["Asked", "Questions", "ask"]


@dataclass(frozen=True)
class Questions:
    """Samples, prompts and other answers of all texts, each with the name of its text."""

    samples: tuple[tuple[str, Sample], ...]
    prompts: tuple[tuple[str, Prompt], ...]
    answers: tuple[Answers, ...] = ()

    def prompts_by_length(self, continuation_tokens: int) -> dict[int, list[tuple[str, Prompt]]]:
        """Group prompts by the number of tokens to generate: their own, or the given one."""
        groups: dict[int, list[tuple[str, Prompt]]] = {}
        for text, prompt in self.prompts:
            groups.setdefault(prompt.new_tokens or continuation_tokens, []).append((text, prompt))
        return groups

    @property
    def ids(self) -> tuple[tuple[str, str], ...]:
        """Text and id of every sample."""
        return tuple((text, sample.id) for text, sample in self.samples)

    def first_samples(self, count: int) -> list[tuple[str, Sample]]:
        """Return up to so many samples of each text."""
        groups: dict[str, list[Sample]] = {}
        for text, sample in self.samples:
            groups.setdefault(text, []).append(sample)
        return [(text, sample) for text, samples in groups.items() for sample in samples[:count]]

    def fingerprints(self) -> dict[str, str]:
        """Return a fingerprint per text over the tokens of its samples, other answers and prompts."""
        groups: dict[str, list[Sample]] = {}
        for text, sample in self.samples:
            groups.setdefault(text, []).append(sample)
        for answers in self.answers:
            groups.setdefault(answers.text, []).extend(answers.samples)
        for text, prompt in self.prompts:
            groups.setdefault(text, []).append(Sample(prompt.id, prompt.input_ids, len(prompt.input_ids)))
        return {text: fingerprint_samples(samples) for text, samples in groups.items()}

    def cost(self, continuation_tokens: int) -> int:
        """Return the number of tokens to score and to generate."""
        samples = [*(sample for _, sample in self.samples), *(s for answers in self.answers for s in answers.samples)]
        written = sum(prompt.new_tokens or continuation_tokens for _, prompt in self.prompts)
        return sum(len(sample.input_ids) for sample in samples) + written


@dataclass(frozen=True)
class Asked:
    """An opened model, not loaded yet, and its questions."""

    loaded: Loaded
    questions: Questions

    def record(self) -> dict[str, Any]:
        """Return the model's origin, and fingerprints of its weights and its questions."""
        return {**model_record(self.loaded), "token_fingerprints": self.questions.fingerprints()}


def ask(
    loaded: Loaded,
    texts: Mapping[str, DataSet],
    measurement: Measurement,
    benchmark: Sequence[Part] = (),
    listener: Listener = SILENT,
) -> Questions:
    """Tokenise all texts for a model.

    :param benchmark: More texts, from ``load_benchmark``.
    :param listener: Receives notes on parts of texts that cannot be measured.
    :raises DataError: A text is too short, or its rows are too long.
    :raises UsageError: A block or a prompt with its continuation is longer than the model has positions.
    """
    limit = loaded.positions
    if texts:
        loaded.check_block(measurement.block_size)
    samples: list[tuple[str, Sample]] = []
    prompts: list[tuple[str, Prompt]] = []
    for name, data in texts.items():
        tokenised = tokenize(data, loaded.tokenizer, measurement.block_size, listener)
        made = make_prompts(
            data,
            tokenised,
            loaded.tokenizer,
            prompts=measurement.prompts,
            prompt_tokens=measurement.prompt_tokens,
            continuation_tokens=measurement.continuation_tokens,
            whole_truth=name in KNOWMEM,
        )
        samples.extend((name, sample) for sample in tokenised)
        prompts.extend((name, prompt) for prompt in made)
    _refuse_long_prompts(prompts, loaded, measurement.continuation_tokens)
    answers: list[Answers] = []
    for part in benchmark:
        asked = ask_part(part, loaded.tokenizer, positions=limit, form=measurement.form, listener=listener)
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
            f"{len(long)} of {len(prompts)} prompts with their continuations exceed the {limit} positions of "
            f"{loaded.name} (the longest is {worst.id}: {longest} tokens)",
            "Lower --prompt-tokens or --continuation-tokens, or shorten the prompts.",
        )
