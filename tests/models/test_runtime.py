"""How a model is loaded, as one value and as keywords of a verb."""

from __future__ import annotations

from taskarith.models.runtime import RUNTIME, Runtime, RuntimeKeywords, take_runtime


def test_keywords_are_taken_out_and_replace_what_they_name():
    keywords = {"device": "cpu", "seed": 3}
    assert take_runtime(keywords, Runtime(dtype="float32")) == Runtime("float32", "cpu")
    assert keywords == {"seed": 3}
    assert take_runtime({}, RUNTIME) == Runtime("auto", "auto", trust_remote_code=False)


def test_every_field_is_a_keyword():
    assert vars(RUNTIME).keys() == RuntimeKeywords.__optional_keys__
