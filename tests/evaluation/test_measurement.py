"""How models are measured, as one value and as keywords of verbs."""

from __future__ import annotations

import pytest

from taskarith.errors import UsageError
from taskarith.evaluation.measurement import MEASUREMENT, EvaluationKeywords, Measurement, with_keywords
from taskarith.models.runtime import RUNTIME, Runtime

OUTSIDE = {"block_size": 1, "prompts": -1, "prompt_tokens": 0, "batch_size": 0, "limit": 0, "draws": -1, "lens": -1}


@pytest.mark.parametrize("values", [*({name: value} for name, value in OUTSIDE.items()), {"batch_size": "big"}])
def test_a_value_out_of_range_is_refused_by_the_name_of_its_option(values):
    (name,) = values
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} .* is out of range"):
        Measurement(**values)


def test_a_record_has_what_came_later_only_where_it_is_used():
    plain = Measurement().record()
    assert plain.keys().isdisjoint({"system_prompt", "draws", "gradient_norms", "seed", "lens"})
    more = Measurement(draws=2, system_prompt="Be brief.").record()
    assert Measurement(lens=4).record()["lens"] == 4
    assert (more["draws"], more["seed"], more["system_prompt"]) == (2, 42, "Be brief.")


def test_keywords_replace_fields_of_both_values():
    given = {"block_size": 8, "device": "cpu"}
    assert with_keywords(given, MEASUREMENT, RUNTIME) == (Measurement(8), Runtime(device="cpu"))
    with pytest.raises(TypeError, match="unexpected keyword argument 'draws'"):
        with_keywords({"draws": 2}, MEASUREMENT, RUNTIME)
    with pytest.raises(UsageError, match="draws has no effect here"):
        with_keywords({}, Measurement(draws=2), RUNTIME)
    every = EvaluationKeywords.__optional_keys__
    assert with_keywords({"draws": 2}, MEASUREMENT, RUNTIME, every)[0] == Measurement(draws=2)
    assert every == vars(MEASUREMENT).keys() | vars(RUNTIME).keys()
