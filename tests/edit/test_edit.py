"""The value of an edit: what it is read from and written as, and that nothing of it is lost on the way."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from taskarith.edit.edit import Edit, ReadVector
from taskarith.edit.read_recipe import parse_recipe
from taskarith.errors import UsageError
from taskarith.merging.methods import parse_method
from taskarith.spec import OperandRef
from taskarith.vectors.vector import BaseRecord

WHOLE = Edit(
    (
        OperandRef("a", -0.6, {"mlp": (0.5,)}, "fa"),
        OperandRef("b", 0.1, {"layers": (0.0, 1.0)}, "fb", base="c@r", base_fingerprint="fc"),
        OperandRef("d", 1.0, fingerprint="fd", against_model=True),
        OperandRef("e", 0.0, fingerprint="fe", role="protect"),
        OperandRef("w", 0.0, fingerprint="fw", role="weights"),
    ),
    "m@r",
    "fm",
    0.7,
    {"lm_head": (0.0,), "*": (1.0, 0.5)},
    parse_method("dare_ties", density=0.5, rescale=False),
    "BF16",
    1000,
    "intersection",
    "t",
    True,
    "{{ messages }}",
)


def record_of(edit):
    """Return a record of an edit whose vectors are a fine-tune of its own, one of the model, and task vectors."""
    kinds = {"b": "finetuned", "d": "finetuned"}
    bases = {"b": BaseRecord("c", "r", "fc"), "d": BaseRecord("m", "r", "fm"), "a": BaseRecord("x", None, "fx")}
    vectors = [
        ReadVector(one.name, kinds.get(one.name, "dense"), bases.get(one.name), one.fingerprint)
        for one in edit.operands
    ]
    return edit.to_record(BaseRecord("m", "r", "fm"), vectors, {"tensors": {}})


def test_a_record_gives_the_edit_back():
    assert Edit.from_record(record_of(WHOLE)) == WHOLE
    plain = Edit((OperandRef("a", 1.0, fingerprint="fa"),), "m@r", "fm")
    assert Edit.from_record(record_of(plain)) == plain


@pytest.mark.parametrize("field", [one.name for one in fields(Edit)])
def test_a_recipe_loses_nothing_but_fingerprints(field):
    """Whatever is added to the value: a recipe of it says so."""
    default = next(one for one in fields(Edit) if one.name == field).default
    fallback = {"operands": WHOLE.operands[:1], "scale": {}}.get(field, default)
    recipe, other = WHOLE.to_recipe(), replace(WHOLE, **{field: fallback}).to_recipe()
    assert (recipe == other) == (field == "model_fingerprint")


def test_a_recipe_is_read_back():
    edit = Edit.from_options(
        ["a:0.5", "b@@c:0.25"], ["n"], protect=["p"], weights="w", scale=["mlp=0.5", "layers=0..1"],
        method=parse_method("ties", density=0.5),
    )  # fmt: skip
    recipe = parse_recipe(replace(edit, model="m", alpha=0.3).to_recipe())
    assert recipe.edit() == edit
    assert {key: recipe.options[key] for key in ("model", "alpha")} == {"model": "m", "alpha": 0.3}


def test_what_lies_here_is_named_by_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    found = Edit((OperandRef("a", 1.0), OperandRef("b", 1.0, base="a")), "org/name").located()
    here = str((tmp_path / "a").resolve())
    assert [(one.name, one.base) for one in found.operands] == [(here, ""), ("b", here)]
    assert found.model == "org/name"


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": "x"},
        {"alpha": float("nan")},
        {"alpha": 10**400},
        {"alpha": None},
        {"base": {"revision": "r"}},
        {"base": {"name": "m"}},
        {"base": None},
        {"dtype": "F8"},
        {"dtype": []},
        {"method": "ties"},
        {"method": {"name": "ties", "width": 3}},
        {"max_shard_size": 0.5},
        {"operands": 3},
        {"operands": [{"name": "a"}]},
        {"operands": [{"name": "a", "kind": "lora", "coefficient": 1, "fingerprint": "f", "base": {"revision": "r"}}]},
    ],
)  # fmt: skip
def test_a_broken_record_is_called_broken(change):
    record = record_of(WHOLE) | change
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        Edit.from_record(record)
    with pytest.raises(UsageError, match="the record of this edit is broken"):
        parse_recipe(record)


@pytest.mark.parametrize("change", [{"vocab": "all"}, {"method": {"name": "foo"}}, {"scale": {"mlp": None}}])
def test_values_of_a_record_that_this_release_does_not_know_are_named(change):
    with pytest.raises(UsageError, match=r"unknown vocab|unknown method|cannot read the scale"):
        Edit.from_record(record_of(WHOLE) | change)


def test_an_edit_without_a_vector_to_add_is_refused():
    with pytest.raises(UsageError, match="no vector is given"):
        Edit.from_options(protect=["p"])
