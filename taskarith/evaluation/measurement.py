"""How models are measured: the sizes, prompts and draws that all who measure share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from taskarith.data.documents import RowForm
from taskarith.errors import UsageError
from taskarith.models.runtime import Runtime, RuntimeKeywords, take_runtime

__all__ = ["MEASUREMENT", "EvaluationKeywords", "Measurement", "MeasurementKeywords", "TextKeywords", "with_keywords"]


@dataclass(frozen=True)
class Measurement:
    """How models are measured.

    :param block_size: Tokens of the blocks in which losses are measured; each block starts without context.
    :param prompts: Prompts per text; 0 measures losses only.
    :param prompt_tokens: Tokens of a prompt taken from a plain text.
    :param continuation_tokens: Tokens to generate at most, and of the reference.
    :param batch_size: Sequences at a time; ``auto`` begins large and halves it when memory is short.
    :param limit: Take the first so many samples of each text of a benchmark, and of each task.
    :param apply_chat_template: Ask the questions of TOFU, of rows and of tasks through the tokenizer's chat template.
    :param system_prompt: The first message of every chat; empty for none.
    :param draws: Continuations of each prompt to draw besides the greedy one, for leak@k; 0 draws none.
    :param gradient_norms: Take the gradient of each sample of ``forget`` and ``holdout``, for membership inference.
    :param seed: Of torch's generators, and of what is drawn; greedy decoding draws nothing.
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


def with_keywords(
    keywords: MeasurementKeywords,
    measurement: Measurement,
    runtime: Runtime,
    known: frozenset[str] = MeasurementKeywords.__optional_keys__,
) -> tuple[Measurement, Runtime]:
    """Return both values with the fields that the caller of a verb gave by name.

    :param known: The fields that mean something to the verb.
    :raises TypeError: A keyword is not one of them.
    :raises UsageError: A value is out of range, or the measurement sets a field that means nothing to the verb.
    """
    given: dict[str, Any] = dict(keywords)
    if unknown := sorted(given.keys() - known):
        raise TypeError(f"unexpected keyword argument '{unknown[0]}'")
    for name, default in vars(MEASUREMENT).items():
        if name not in known and getattr(measurement, name) != default:
            raise UsageError(f"{name} is set, which changes nothing here", "Leave it out: it is for evaluate.")
    runtime = take_runtime(given, runtime)
    return replace(measurement, **given), runtime
