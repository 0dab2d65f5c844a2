"""Test inputs of tasks: their bounds, and how a verb takes them."""

from __future__ import annotations

import pytest

from taskarith.errors import UsageError
from taskarith.models.runtime import RUNTIME, Runtime
from taskarith.relations.inputs import INPUTS, InputKeywords, TestInputs, with_keywords


@pytest.mark.parametrize("inputs", [TestInputs(3, 2), TestInputs(16, 1)])
def test_too_few_inputs_or_tokens_are_refused(inputs):
    with pytest.raises(UsageError, match="too few inputs or tokens"):
        inputs.check()
    TestInputs(4, 2).check()


def test_keywords_replace_fields_of_both_values():
    assert with_keywords({"inputs": 3, "dtype": "float32"}, INPUTS, RUNTIME) == (
        TestInputs(inputs=3),
        Runtime("float32"),
    )
    with pytest.raises(TypeError, match="blok_size"):
        with_keywords({"blok_size": 3}, INPUTS, RUNTIME)
    assert InputKeywords.__optional_keys__ == vars(INPUTS).keys() | vars(RUNTIME).keys()
    assert TestInputs(apply_chat_template=True, system_prompt="a").form.system_prompt == "a"
