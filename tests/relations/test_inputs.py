"""Test inputs of tasks: their bounds, how a verb takes them, and how their questions are asked."""

from __future__ import annotations

import pytest
import tiny
from asking import CHAT, write_questions

from taskarith.errors import DataError, UsageError
from taskarith.evaluation.evaluate import evaluate
from taskarith.models.runtime import RUNTIME, Runtime
from taskarith.relations.inputs import INPUTS, InputKeywords, TestInputs, with_keywords
from taskarith.relations.out_of_domain import out_of_domain
from taskarith.relations.relate import relate


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


VERBS = {
    "relate": lambda vectors, path, **options: relate(vectors, data={"x": path, "y": path}, inputs=5, **options),
    "ood": lambda vectors, path, **options: out_of_domain(vectors[:1], data={"x": path}, inputs=5, **options),
}


def base_loss(verb, found):
    """Return the mean loss of the base on the test inputs of x."""
    return found["outputs"]["losses"][0][0] if verb == "relate" else found["base_loss"]


@pytest.fixture
def questions(tmp_path):
    return write_questions(tmp_path)


@pytest.mark.parametrize("verb", VERBS)
def test_questions_are_asked_by_the_chat_template_as_eval_asks_them(room, phi, questions, verb):
    vectors = [str(room / f"{name}.safetensors") for name in "ab"]
    plain, chats = (VERBS[verb](vectors, questions["questions"], **options).to_json() for options in ({}, CHAT))
    assert chats == VERBS[verb](vectors, questions["chats"]).to_json()
    assert plain == VERBS[verb](vectors, questions["prompts"]).to_json()
    losses = []
    for options, found in (({}, plain), (CHAT, chats)):
        records = evaluate([str(phi)], {"x": questions["questions"]}, prompts=0, **options).records
        expected = [one["nll"] / one["tokens"] for one in records if one["kind"] == "loss"]
        assert base_loss(verb, found) == pytest.approx(sum(expected) / len(expected), rel=1e-5)
        losses.append(base_loss(verb, found))
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("verb", VERBS)
def test_a_base_without_a_chat_template_cannot_be_asked_by_it(tmp_path, questions, verb):
    base = tiny.save_model(tmp_path / "base")
    vectors = [str(tiny.save_model(tmp_path / name, nudge_of=base, seed=seed)) for name, seed in (("a", 1), ("b", 2))]
    (base / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match=r"jsonl:1 is a chat, but the model's tokenizer has no chat template"):
        VERBS[verb](vectors, questions["questions"], **CHAT)
