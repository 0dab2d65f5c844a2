"""mergekit's configurations: the numbers they ask for, worked out by hand, and what is refused by name."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from mergekit_files import merge, model
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.edit.mergekit import translate
from taskarith.errors import UsageError


def test_an_adapter_on_the_base_is_an_operand():
    config = {"merge_method": "task_arithmetic", "base_model": "org/base", "models": [model("org/base+me/lora", 0.5)]}
    assert [(one.name, one.coefficient) for one in translate(config).operands] == [("me/lora", 0.5)]
    with pytest.raises(UsageError, match=r"other\+me/lora is an adapter on another model"):
        translate(config | {"models": [model("other+me/lora", 0.5)]})


@pytest.mark.parametrize(
    ("method", "given", "expected"),
    [
        ("ties", {"density": 0.5}, {"density": 0.5, "normalize": True}),
        ("dare_linear", {"density": 0.5}, {"density": 0.5, "normalize": False, "rescale": True}),
        ("dare_ties", {"rescale": False}, {"density": 1.0, "normalize": False, "rescale": False}),
        ("della", {"epsilon": 0.1}, {"density": 1.0, "epsilon": 0.1, "normalize": True, "rescale": True}),
        ("della_linear", {}, {"density": 1.0, "epsilon": 0.15, "normalize": False, "rescale": True}),
        ("breadcrumbs", {"gamma": 0.02}, {"density": 1.0, "gamma": 0.02, "normalize": False}),
        ("breadcrumbs_ties", {}, {"density": 1.0, "gamma": 0.01, "normalize": False}),
    ],
)
def test_other_methods_become_options(method, given, expected):
    config = {"merge_method": method, "base_model": "b", "models": [model("x", 0.5), model("y", 0.25)]}
    recipe = translate(config | {"parameters": given | {"lambda": 0.9}, "dtype": "bfloat16"})
    assert recipe.options == {"model": "b", "method": method, "alpha": 0.9, "dtype": "bfloat16"} | expected
    assert [(one.name, one.coefficient) for one in recipe.operands] == [("x", 0.5), ("y", 0.25)]


def test_slerp_and_model_stock():
    config = {"merge_method": "slerp", "base_model": "b", "models": [model("x"), model("b")], "parameters": {"t": 0.4}}
    recipe = translate(config)
    assert recipe.options == {"model": "b", "method": "slerp"}
    assert [(one.name, one.coefficient) for one in recipe.operands] == [("x", 0.4), ("b", 0.6)]
    recipe = translate({"merge_method": "model_stock", "base_model": "b", "models": [model("x"), model("y")]})
    assert recipe.options == {"model": "b", "method": "model_stock"}
    assert [(one.name, one.coefficient) for one in recipe.operands] == [("x", 1.0), ("y", 1.0)]


def test_methods_whose_models_have_no_weights_of_their_own():
    two = [model("x"), model("y")]
    recipe = translate({"merge_method": "sce", "base_model": "b", "models": two, "parameters": {"select_topk": 0.3}})
    assert recipe.options == {"model": "b", "method": "sce", "density": 0.3}
    recipe = translate({"merge_method": "karcher", "models": two, "parameters": {"max_iter": 10}})
    assert recipe.options == {"model": "x", "method": "karcher"}
    assert [(one.name, one.coefficient) for one in recipe.operands] == [("x", 1.0), ("y", 1.0)]
    recipe = translate({"merge_method": "karcher", "base_model": "b", "models": two})  # the base is one of them
    assert [(one.name, one.coefficient) for one in recipe.operands] == [("x", 1.0), ("y", 1.0), ("b", 1.0)]
    recipe = translate({"merge_method": "nuslerp", "base_model": "b", "models": [model("x", 0.7), model("y", 0.3)]})
    assert recipe.options == {"model": "b", "method": "nuslerp"}
    assert [(one.name, one.coefficient) for one in recipe.operands] == [("x", 0.7), ("y", 0.3)]


def test_the_karcher_mean_of_models_without_a_base(three, tmp_path):
    _, one, two = three
    got, _ = merge(tmp_path, {"merge_method": "karcher", "models": [model(one), model(two)]})
    for name, tensor in got.items():
        ends = [oracle.load(end)[name].double() for end in (one, two)]
        norms = [end.norm() for end in ends]
        between = sum(end / norm for end, norm in zip(ends, norms, strict=True))
        torch.testing.assert_close(tensor.double(), between / between.norm() * sum(norms) / 2, rtol=1e-5, atol=1e-7)


TWO = [model("x", 0.5), model("y", 0.5)]
LINEAR = {"merge_method": "linear", "models": TWO}
TIES = {"merge_method": "ties", "base_model": "b", "models": TWO}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (LINEAR | {"merge_method": "passthrough"}, "mergekit's 'passthrough' is not supported"),
        (LINEAR | {"merge_method": ["linear"]}, r"mergekit's \['linear'\] is not supported"),
        (LINEAR | {"tokenizer_source": "union"}, "tokenizer_source 'union' is not supported"),
        (LINEAR | {"tokenizer": {"source": "base"}}, "tokenizer of mergekit is not supported"),
        (LINEAR | {"chat_template": "chatml"}, "built-in chat template 'chatml' is not supported"),
        (LINEAR | {"modules": {"a": {}}}, "modules of mergekit is not supported"),
        (LINEAR | {"frobnicate": 1}, "frobnicate is not known in the configuration"),
        (LINEAR | {"slices": []}, "no models, or slices besides"),
        ({"merge_method": "linear"}, "no models"),
        (LINEAR | {"models": {}}, "the models of the configuration are not a list"),
        (LINEAR | {"models": ["x"]}, "the models of the configuration are not a list"),
        (LINEAR | {"models": [{"weight": 1}]}, "weight is not known in a model"),
        (LINEAR | {"models": [model("x", 1), {"model": 3}]}, "cannot read the model 3"),
        (LINEAR | {"models": [model("x", 1), model("x", 2)]}, "x is listed twice"),
        (LINEAR | {"models": [model("x", 1)]}, "1 models are too few"),
        (LINEAR | {"models": [model("x", 1), model("y")]}, "the weight of y is missing"),
        (LINEAR | {"models": [model("x", 1), model("y", "much")]}, "the weight 'much' is not a finite number"),
        (LINEAR | {"models": [model("x", 1), model("y", float("nan"))]}, "the weight nan is not a finite number"),
        (LINEAR | {"models": [model("x", 1), model("y", True)]}, "the weight True is not a finite number"),
        (LINEAR | {"models": [model("x", 1), model("y", -1)]}, "weights of linear sum up to 0"),
        (LINEAR | {"parameters": {"normalize": False, "weight": 1}, "base_model": "b"}, "sum up to 2 is not supported"),
        (LINEAR | {"parameters": {"density": 1}}, "density is not known in linear of mergekit"),
        (LINEAR | {"parameters": [1]}, r"the parameters \[1\] are not a map"),
        (LINEAR | {"parameters": {"normalize": "perhaps"}}, "normalize 'perhaps' is neither true nor false"),
        (LINEAR | {"base_model": "b"}, "the weight of b is missing"),
        ({"merge_method": "task_arithmetic", "models": TWO}, "task_arithmetic of mergekit needs a base_model"),
        (
            {"merge_method": "slerp", "base_model": "b", "models": [model("x"), model("y")]},
            "3 models are too few or too many for slerp",
        ),
        ({"merge_method": "slerp", "base_model": "b", "models": [model("x")]}, "the t is missing"),
        ({"merge_method": "nuslerp", "models": TWO}, "nuslerp without a base_model is not supported"),
        (TIES | {"merge_method": "nuslerp", "base_model": "x"}, "2 models are too few or too many for nuslerp"),
        (
            TIES | {"merge_method": "nuslerp", "parameters": {"nuslerp_flatten": False}},
            "nuslerp_flatten of nuslerp is not supported",
        ),
        (
            {"merge_method": "karcher", "models": [model("x"), model("y")], "parameters": {"tol": 1e-9}},
            "tol of karcher is not supported",
        ),
        (LINEAR | {"merge_method": "karcher"}, "weight is not known in karcher of mergekit"),
        (
            {"merge_method": "model_stock", "base_model": "b", "models": [model("x"), model("y")]}
            | {"parameters": {"filter_wise": True}},
            "filter_wise of model_stock is not supported",
        ),
        (
            TIES
            | {"models": [{"model": m, "parameters": {"weight": 1, "density": d}} for m, d in (("x", 1), ("y", 0.5))]},
            "density of ties differs between models or tensors",
        ),
        ({"merge_method": "linear", "slices": [{"sources": TWO}, {"sources": TWO}]}, "slices that move layers"),
        (
            {"merge_method": "linear", "slices": [{"sources": TWO, "residual_weight": 1}]},
            "residual_weight is not known",
        ),
    ],
)
def test_what_is_refused_by_name(config, words):
    with pytest.raises(UsageError, match=words):
        translate(config)


def test_what_is_refused_by_name_once_the_base_is_open(three):
    base, one, two = three
    config = {"merge_method": "ties", "base_model": str(base), "models": [model(one, 1), model(two, 1)]}
    for parameter in ("density", "lambda"):
        with pytest.raises(UsageError, match=f"{parameter} of ties differs between models or tensors"):
            translate(config | {"parameters": {parameter: [1, 0.5]}})
    for bad, words in (
        ([{"filter": "mlp", "value": 1}], "the weight of .* is missing for lm_head.bias"),
        ([{"filter": "mlp"}], "cannot read .* of weight"),
        ([{"filter": 3, "value": 1}], "cannot read .* of weight"),
        ([{"filter": "mlp", "value": 1, "scale": 2}], "scale is unknown in weight"),
        ([{"value": [[1]]}], "a condition of weight holds conditions"),
        ([0, None], "the weight None is not a finite number"),
        ([], "the weight of .* is missing"),
    ):
        with pytest.raises(UsageError, match=words):
            translate(config | {"models": [model(one, bad), model(two, 1)]})
    sources = [model(one, 1, layer_range=[0, 1]), model(two, 1, layer_range=[0, 1])]
    with pytest.raises(UsageError, match=r"layer_range \[0, 1\] of .* moves layers") as caught:
        translate({"merge_method": "linear", "slices": [{"sources": sources}]})
    assert "[0, 2]" in caught.value.hint


def test_slerp_goes_from_the_base_to_the_model(three, tmp_path):
    base, tuned, _ = three
    config = {"merge_method": "slerp", "base_model": str(base), "models": [{"model": str(base)}, {"model": str(tuned)}]}
    result, _ = merge(tmp_path, config | {"parameters": {"t": [{"filter": "mlp", "value": 0}, {"value": 0.3}]}})
    before, after = oracle.load(base), oracle.load(tuned)
    for name, tensor in before.items():
        a, b = tensor.double(), after[name].double()
        if "mlp" in name:
            assert torch.equal(result[name], tensor), name
            continue
        cosine = float((a * b).sum() / (a.norm() * b.norm())) if a.norm() and b.norm() else 0.0
        shares = (0.7, 0.3)
        if abs(cosine) <= 0.9995:
            shares = tuple(float(np.sin(t * np.arccos(cosine)) / np.sin(np.arccos(cosine))) for t in shares)
        torch.testing.assert_close(result[name].double(), shares[0] * a + shares[1] * b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "parameters", "options"),
    [
        ("ties", {"density": 0.5}, ["--density", "0.5", "--normalize"]),
        ("ties", {"density": 0.5, "normalize": False, "lambda": 0.5}, ["--density", "0.5", "--no-normalize"]),
        ("breadcrumbs", {"density": 0.4, "gamma": 0.1}, ["--density", "0.4", "--gamma", "0.1", "--no-normalize"]),
        ("dare_ties", {"density": 0.5, "rescale": False}, ["--density", "0.5", "--no-rescale", "--no-normalize"]),
        ("della", {"density": 0.5, "epsilon": 0.1}, ["--density", "0.5", "--epsilon", "0.1", "--normalize"]),
    ],
)
def test_a_configuration_is_the_command_with_these_options(three, tmp_path, method, parameters, options):
    base, first, second = three
    models = [{"model": str(first), "parameters": {"weight": 0.5}}, {"model": str(second), "parameters": {"weight": 1}}]
    merge(tmp_path, {"merge_method": method, "base_model": str(base), "models": models, "parameters": parameters})
    vectors = ["--add", f"{first}:0.5", "--add", f"{second}:1.0", "--alpha", str(parameters.get("lambda", 1))]
    command = ["apply", str(base), *vectors, "--method", method, *options, "-o", str(tmp_path / "by-hand")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert oracle.differing(oracle.load(tmp_path / "out"), oracle.load(tmp_path / "by-hand")) == []
