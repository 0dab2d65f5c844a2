"""Options of an attack, checked before a model is loaded, and the prompts and samples used with all models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from taskarith.attacks.prompts import (
    Passage,
    file_prompts,
    growing,
    make_passages,
    plain,
    rephrased_by_rule,
    shift_of,
)
from taskarith.attacks.quantise import Rounding
from taskarith.attacks.relearn import choose_samples, steps_of
from taskarith.data.load import DataSet
from taskarith.data.tokens import Sample
from taskarith.errors import DataError, UsageError
from taskarith.evaluation.measurement import Measurement
from taskarith.evaluation.models import Loaded
from taskarith.evaluation.prompts import Prompt
from taskarith.evaluation.questions import Questions, ask

__all__ = ["ATTACKS", "HALF", "TEXT", "UNRELATED", "Exam", "Lesson", "Options", "Texts", "make_exam"]

ATTACKS = ("relearn", "quantise", "rephrase", "prefix")
TEXT = "forget"
"""Name of the forget text in records."""
HALF = "half"
"""Name in records of the attacker that trains on half of the forget text for whole epochs."""
UNRELATED = "unrelated"


_LISTS: dict[str, Sequence[Any]] = {
    "attacks": ATTACKS,
    "relearn_steps": range(1, 10**6 + 1),
    "prefixes": range(1, 10**6 + 1),
}
"""Allowed values of options that are lists."""


_MEASURED = ("prompts", "prompt_tokens", "continuation_tokens", "block_size", "batch_size", "seed")
"""Fields of the measurement recorded with the options."""


@dataclass(frozen=True)
class Options:
    """How to attack and measure; see ``attack`` for each option.

    :raises UsageError: A value is out of range, or unknown.
    """

    attacks: tuple[str, ...]
    relearn_samples: int
    relearn_steps: tuple[int, ...]
    relearn_epochs: int
    learning_rate: float
    bits: tuple[int | str, ...]
    prefixes: tuple[int, ...]
    draws: int
    measurement: Measurement

    def __post_init__(self) -> None:
        for name, allowed in _LISTS.items():
            values = getattr(self, name)
            if not values or len(set(values)) < len(values) or not all(map(allowed.__contains__, values)):
                shown = ", ".join(ATTACKS) if name == "attacks" else f"whole numbers from {allowed[0]} to {allowed[-1]}"
                option = name.replace("_", "-")
                raise UsageError(
                    f"--{option} {','.join(map(str, values))} cannot be used",
                    f"Give {shown}, each at most once.",
                )
        names = [rounding.name for rounding in self.roundings]
        if not names or len(set(names)) < len(names):
            raise UsageError(
                f"--bits {','.join(map(str, self.bits))} cannot be used", "Give at least one format, each only once."
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UsageError(f"--learning-rate {self.learning_rate} is out of range", "Give a number above 0.")
        for name, least in (("relearn_samples", 1), ("relearn_epochs", 0), ("draws", 0), ("prompts", 1), ("seed", 0)):
            value = getattr(self.measurement if name in {"prompts", "seed"} else self, name)
            if value < least:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} {value} is out of range", f"Use {least} or more.")

    @property
    def roundings(self) -> tuple[Rounding, ...]:
        """The quantisation formats.

        :raises UsageError: A format is unknown.
        """
        return tuple(map(Rounding.parse, self.bits))

    @property
    def unprompted(self) -> Measurement:
        """The measurement without its own prompts."""
        return replace(self.measurement, prompts=0)

    @property
    def context_tokens(self) -> int:
        """Maximum tokens of plain text before a continuation in any attack."""
        prompt_tokens = self.measurement.prompt_tokens
        needed = [prompt_tokens]
        if "prefix" in self.attacks:
            needed += self.prefixes
        if "rephrase" in self.attacks:
            needed.append(prompt_tokens + shift_of(prompt_tokens))
        return max(needed)

    def record(self) -> dict[str, Any]:
        """Return all options as plain values."""
        own = {name: value for name, value in vars(self).items() if name != "measurement"}
        return own | {name: getattr(self.measurement, name) for name in _MEASURED}


@dataclass(frozen=True)
class Texts:
    """The data sets of an attack."""

    forget: DataSet
    unrelated: DataSet | None
    rephrased: DataSet | None

    def record(self) -> dict[str, Any]:
        """Return origin and fingerprint of each."""
        return {name: data and data.record() for name, data in vars(self).items()}


@dataclass(frozen=True)
class Lesson:
    """The training of one attacker.

    :param samples: Training samples.
    :param steps: Steps after which to measure, ascending.
    :param given: Ids of samples of the forget text that are not held out, and of passages that overlap them.
    """

    samples: tuple[Sample, ...]
    steps: tuple[int, ...]
    given: frozenset[str]


@dataclass(frozen=True)
class Exam:
    """The samples and prompts of all attacks; models are comparable only if they are equal for all.

    :param questions: The forget text without an attack.
    :param rephrased: Prompts by rule of rephrasing, each with the group it belongs to.
    :param growing: Prompts by prefix length in tokens.
    :param lessons: Training by source (``forget``, ``half``, ``unrelated``).
    """

    questions: Questions
    rephrased: dict[str, tuple[tuple[str, Prompt], ...]]
    growing: dict[int, tuple[Prompt, ...]]
    lessons: dict[str, Lesson]


def make_exam(loaded: Loaded, texts: Texts, options: Options) -> Exam:
    """Tokenise all texts for a model and choose what each attack uses.

    :raises DataError: A text is too short, or leaves nothing to hold out.
    :raises UsageError: A block or a prompt with its continuation is longer than the model has positions.
    """
    measurement = options.measurement
    sets = {TEXT: texts.forget} | ({UNRELATED: texts.unrelated} if texts.unrelated else {})
    asked = {name: ask(loaded, {name: data}, options.unprompted) for name, data in sets.items()}
    samples = {name: [sample for _, sample in questions.samples] for name, questions in asked.items()}
    passages = make_passages(
        texts.forget,
        samples[TEXT],
        loaded.tokenizer,
        prompts=measurement.prompts,
        prompt_tokens=measurement.prompt_tokens,
        context_tokens=options.context_tokens,
        continuation_tokens=measurement.continuation_tokens,
        block_size=measurement.block_size,
    )
    tokenizer = loaded.tokenizer
    lessons = _lessons(samples, passages, texts, options) if "relearn" in options.attacks else {}
    grown = options.prefixes if "prefix" in options.attacks else ()
    exam = Exam(
        questions=Questions(asked[TEXT].samples, tuple((TEXT, plain(passage, tokenizer)) for passage in passages)),
        rephrased=_rephrased(passages, texts, loaded, options) if "rephrase" in options.attacks else {},
        growing={size: tuple(growing(passage, size, tokenizer) for passage in passages) for size in grown},
        lessons=lessons,
    )
    _check_positions(loaded, exam, options)
    return exam


def _lessons(
    samples: dict[str, list[Sample]], passages: Sequence[Passage], texts: Texts, options: Options
) -> dict[str, Lesson]:
    forget, steps = samples[TEXT], tuple(sorted(options.relearn_steps))
    chosen = tuple(choose_samples(forget, options.relearn_samples, options.measurement.seed, texts.forget.spec))
    given = _given(passages, chosen)
    if passages and given.issuperset(passage.id for passage in passages):
        raise DataError(
            "every prompt overlaps the attacker's samples, so none is held out",
            "Raise --prompts, or lower --relearn-samples, --block-size or --continuation-tokens.",
        )
    lessons = {TEXT: Lesson(chosen, steps, given)}
    if options.relearn_epochs:
        half = tuple(choose_samples(forget, len(forget) // 2, options.measurement.seed, texts.forget.spec))
        lessons[HALF] = Lesson(half, (steps_of(half, options.relearn_epochs),), _given(passages, half))
    if UNRELATED in samples:  # the same amount as of the forget text, so that only the text differs
        lessons[UNRELATED] = Lesson(tuple(samples[UNRELATED][: options.relearn_samples]), steps, given)
    return lessons


def _given(passages: Sequence[Passage], samples: Sequence[Sample]) -> frozenset[str]:
    seen = {sample.id for sample in samples}
    return frozenset(seen | {passage.id for passage in passages if passage.samples & seen})


def _rephrased(
    passages: Sequence[Passage], texts: Texts, loaded: Loaded, options: Options
) -> dict[str, tuple[tuple[str, Prompt], ...]]:
    if texts.rephrased is not None:
        size, new = options.measurement.block_size, options.measurement.continuation_tokens
        prompts = file_prompts(texts.rephrased, loaded.tokenizer, block_size=size, continuation_tokens=new)
        return {"from file": tuple(prompts)}
    if any(document.messages is not None for document in texts.forget.documents):
        raise DataError(
            f"{texts.forget.spec} contains chats, whose templates the rules of rephrasing would break",
            "Give rephrased chats with --rephrased FILE, or remove rephrase from --attacks.",
        )
    by_rule = rephrased_by_rule(passages, loaded.tokenizer)
    return {rule: tuple((prompt.id, prompt) for prompt in prompts) for rule, prompts in by_rule.items()}


def _check_positions(loaded: Loaded, exam: Exam, options: Options) -> None:
    prompts = [prompt for _, prompt in exam.questions.prompts]
    prompts += [prompt for pairs in exam.rephrased.values() for _, prompt in pairs]
    prompts += [prompt for grown in exam.growing.values() for prompt in grown]
    longest = max(len(prompt.input_ids) for prompt in prompts) + options.measurement.continuation_tokens
    if loaded.positions is not None and longest > loaded.positions:
        raise UsageError(
            f"a prompt with its continuation has {longest} tokens; {loaded.name} has {loaded.positions} positions",
            "Lower --prefixes, --prompt-tokens or --continuation-tokens.",
        )
