"""One model on all texts: what it is asked, in one stream over the texts, and the records of what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from taskarith.errors import UsageError
from taskarith.evaluation.batches import batch_start
from taskarith.evaluation.generation import Prompt, continue_greedily, make_prompts
from taskarith.evaluation.loss import score_samples
from taskarith.evaluation.models import Loaded
from taskarith.evaluation.records import Record, continuation_record, loss_record
from taskarith.training.data import DataSet
from taskarith.training.tokens import Sample, tokenize

__all__ = ["Questions", "Settings", "ask", "measure"]


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

    def __post_init__(self) -> None:
        least = {"block_size": 2, "prompts": 0, "prompt_tokens": 1, "continuation_tokens": 1}
        if self.batch_size != "auto":
            least["batch_size"] = 1
        for name, smallest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < smallest:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} {value} is out of range", f"Use {smallest} or more.")


@dataclass(frozen=True)
class Questions:
    """Samples and prompts of all texts, each with the name of its text."""

    samples: tuple[tuple[str, Sample], ...]
    prompts: tuple[tuple[str, Prompt], ...]

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt; 0 where there is none."""
        return max((len(prompt.input_ids) for _, prompt in self.prompts), default=0)

    def cost(self, continuation_tokens: int) -> int:
        """Tokens to read for the losses, and to write."""
        return sum(len(sample.input_ids) for _, sample in self.samples) + len(self.prompts) * continuation_tokens


def ask(loaded: Loaded, texts: Mapping[str, DataSet], settings: Settings) -> Questions:
    """Tokenise all texts for a model.

    :raises DataError: A text is too short, or its rows are too long.
    :raises UsageError: A block or a prompt with its continuation is longer than the model has positions.
    """
    limit = loaded.positions
    if limit is not None and settings.block_size > limit:
        raise UsageError(
            f"--block-size {settings.block_size} is more than the {limit} positions of {loaded.name}",
            f"Use at most {limit}.",
        )
    samples: list[tuple[str, Sample]] = []
    prompts: list[tuple[str, Prompt]] = []
    for name, data in texts.items():
        found = tokenize(data, loaded.tokenizer, settings.block_size)
        made = make_prompts(
            data,
            found,
            loaded.tokenizer,
            prompts=settings.prompts,
            prompt_tokens=settings.prompt_tokens,
            continuation_tokens=settings.continuation_tokens,
        )
        samples.extend((name, sample) for sample in found)
        prompts.extend((name, prompt) for prompt in made)
    questions = Questions(tuple(samples), tuple(prompts))
    longest = questions.longest_prompt + settings.continuation_tokens
    if prompts and limit is not None and longest > limit:
        raise UsageError(
            f"a prompt with its continuation takes {longest} tokens, but {loaded.name} has {limit} positions",
            "Lower --prompt-tokens or --continuation-tokens, or shorten the prompts.",
        )
    return questions


def measure(
    loaded: Loaded, questions: Questions, settings: Settings, row: str, on_share: Callable[[float], None]
) -> list[Record]:
    """Run a model over all samples, then over all prompts, and record every one.

    :param row: Name of the row of scores that the records belong to.
    :param on_share: Told how much of the work is done, from 0 to 1.
    :raises CheckpointError: A loss is not finite.
    """
    done, cost = 0, questions.cost(settings.continuation_tokens)

    def on_tokens(count: int) -> None:
        nonlocal done
        done = min(done + count, cost)  # a batch that ran out of memory is counted again
        on_share(done / cost)

    on_share(0.0)
    return _losses(loaded, questions, settings, row, on_tokens) + _continuations(
        loaded, questions, settings, row, on_tokens
    )


def _losses(
    loaded: Loaded, questions: Questions, settings: Settings, row: str, on_tokens: Callable[[int], None]
) -> list[Record]:
    samples = [sample for _, sample in questions.samples]
    size, shrink = _batch_size(loaded, settings, max(len(sample.input_ids) for sample in samples), cached=False)
    scores = score_samples(loaded.model, samples, size, shrink=shrink, on_tokens=on_tokens)
    return [
        loss_record(row, text, sample.id, score.nll, score.tokens, score.correct)
        for (text, sample), score in zip(questions.samples, scores, strict=True)
    ]


def _continuations(
    loaded: Loaded, questions: Questions, settings: Settings, row: str, on_tokens: Callable[[int], None]
) -> list[Record]:
    longest = questions.longest_prompt + settings.continuation_tokens
    size, shrink = _batch_size(loaded, settings, longest, cached=True)
    found = continue_greedily(
        loaded.model,
        loaded.tokenizer,
        [prompt for _, prompt in questions.prompts],
        max_new_tokens=settings.continuation_tokens,
        end_ids=loaded.end_ids,
        batch_size=size,
        shrink=shrink,
        on_tokens=on_tokens,
    )
    return [
        continuation_record(row, text, prompt.id, prompt.text, prompt.reference, continuation)
        for (text, prompt), continuation in zip(questions.prompts, found, strict=True)
    ]


def _batch_size(loaded: Loaded, settings: Settings, longest: int, *, cached: bool) -> tuple[int, bool]:
    if settings.batch_size == "auto":
        return batch_start(loaded.model, longest, cached=cached), True
    return settings.batch_size, False
