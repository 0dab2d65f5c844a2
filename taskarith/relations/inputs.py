"""Settings of the test inputs of tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from taskarith.data.documents import RowForm
from taskarith.errors import UsageError
from taskarith.evaluation.measurement import TextKeywords
from taskarith.models.runtime import Runtime, take_runtime

__all__ = ["INPUTS", "InputKeywords", "TestInputs", "with_keywords"]


@dataclass(frozen=True)
class TestInputs:
    """How test inputs are cut from the data of a task.

    :param block_size: Tokens per test input.
    :param inputs: Maximum number of test inputs per task, spread evenly over the data.
    :param apply_chat_template: Format the questions of rows with the tokenizer's chat template.
    :param system_prompt: System message of every chat; empty for none.
    """

    block_size: int = 64
    inputs: int = 32
    apply_chat_template: bool = False
    system_prompt: str = ""

    __test__ = False  # or pytest would collect it as a test

    @property
    def form(self) -> RowForm:
        """How questions and chats are formatted."""
        return RowForm(self.apply_chat_template, self.system_prompt)

    def check(self) -> None:
        """Check that there is enough to compare.

        :raises UsageError: A number is out of range.
        """
        if self.inputs < 2 or self.block_size < 4:
            raise UsageError("too few inputs or tokens", "Use at least --inputs 2 and --block-size 4.")


INPUTS = TestInputs()


class InputKeywords(TextKeywords, total=False):
    """The fields of ``TestInputs`` and ``Runtime`` as keywords of a verb."""

    inputs: int


def with_keywords(keywords: InputKeywords, inputs: TestInputs, runtime: Runtime) -> tuple[TestInputs, Runtime]:
    """Return both values, updated with fields given as keywords.

    :raises TypeError: A keyword is not a field.
    """
    given: dict[str, Any] = dict(keywords)
    runtime = take_runtime(given, runtime)
    return replace(inputs, **given), runtime
