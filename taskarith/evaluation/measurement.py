"""Settings of measurements: sizes, prompts and draws."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from taskarith.data.documents import RowForm
from taskarith.errors import UsageError
from taskarith.models.runtime import Runtime, RuntimeKeywords, take_runtime

__all__ = ["MEASUREMENT", "EvaluationKeywords", "Measurement", "MeasurementKeywords", "TextKeywords", "with_keywords"]


@dataclass(frozen=True)
class Measurement:
    """Settings of a measurement.

    :param block_size: Tokens per block in which losses are measured; each block starts without context.
    :param prompts: Prompts per text; 0 measures losses only.
    :param prompt_tokens: Prompt length for plain text, in tokens.
    :param continuation_tokens: Maximum tokens to generate, and tokens of the reference.
    :param batch_size: Sequences per batch; ``auto`` starts large and halves it when memory runs out.
    :param limit: Use only the first samples of each benchmark text and task, up to this number.
    :param apply_chat_template: Format the questions of TOFU, of rows and of tasks with the chat template.
    :param system_prompt: System message of every chat; empty for none.
    :param draws: Sampled continuations per prompt besides the greedy one, for leak@k; 0 for none.
    :param gradient_norms: Measure gradient norms of ``forget`` and ``holdout`` samples, for membership inference.
    :param seed: Seed of sampling; greedy decoding is deterministic.
    :param lens: First samples of each text whose loss is read at every layer, see ``evaluation.lens``; 0 for none.
    :raises UsageError: A value is out of range.
    """

    block_size: int = 256
    prompts: int = 16
    prompt_tokens: int = 32
    continuation_tokens: int = 64
    batch_size: int | Literal["auto"] = "auto"
    limit: int | None = None
    apply_chat_template: bool = False
    system_prompt: str = ""
    draws: int = 0
    gradient_norms: bool = False
    seed: int = 42
    lens: int = 0

    @property
    def form(self) -> RowForm:
        """How questions and chats are formatted."""
        return RowForm(self.apply_chat_template, self.system_prompt)

    def record(self) -> dict[str, Any]:
        """Return all fields as plain values; newer fields only if used, to match older records."""
        later = {"system_prompt": self.system_prompt, "draws": self.draws, "gradient_norms": self.gradient_norms}
        later |= {"seed": self.draws, "lens": self.lens}
        return {name: value for name, value in asdict(self).items() if later.get(name, True)}

    def __post_init__(self) -> None:
        minimum = {"block_size": 2, "prompts": 0, "prompt_tokens": 1, "continuation_tokens": 1}
        minimum |= {"draws": 0, "lens": 0}
        if self.batch_size != "auto":
            minimum["batch_size"] = 1
        if self.limit is not None:
            minimum["limit"] = 1
        for name, lowest in minimum.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} {value} is out of range", f"Use {lowest} or more.")


MEASUREMENT = Measurement()


class TextKeywords(RuntimeKeywords, total=False):
    """The fields of ``Runtime``, and how texts are cut and written, as keywords."""

    block_size: int
    apply_chat_template: bool
    system_prompt: str


class MeasurementKeywords(TextKeywords, total=False):
    """The fields of ``Runtime``, and those of ``Measurement`` that all verbs that measure take, as keywords."""

    prompts: int
    prompt_tokens: int
    continuation_tokens: int
    batch_size: int | Literal["auto"]
    seed: int


class EvaluationKeywords(MeasurementKeywords, total=False):
    """The fields of ``Measurement`` and ``Runtime`` as keywords."""

    limit: int | None
    draws: int
    gradient_norms: bool
    lens: int


def with_keywords(
    keywords: MeasurementKeywords,
    measurement: Measurement,
    runtime: Runtime,
    known: frozenset[str] = MeasurementKeywords.__optional_keys__,
) -> tuple[Measurement, Runtime]:
    """Return both values, updated with fields given as keywords.

    :param known: The fields that the verb uses.
    :raises TypeError: A keyword is not one of them.
    :raises UsageError: A value is out of range, or the measurement sets a field that the verb does not use.
    """
    given: dict[str, Any] = dict(keywords)
    if unknown := sorted(given.keys() - known):
        raise TypeError(f"unexpected keyword argument '{unknown[0]}'")
    for name, default in vars(MEASUREMENT).items():
        if name not in known and getattr(measurement, name) != default:
            raise UsageError(f"{name} has no effect here", "Leave it out: only evaluate uses it.")
    runtime = take_runtime(given, runtime)
    return replace(measurement, **given), runtime
