"""mergekit's configurations: the numbers they ask for, worked out by hand, and what is refused by name."""

from __future__ import annotations

import json

import numpy as np
import oracle
import pytest
import tiny
import torch
import yaml
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.edit.mergekit import translate
from taskarith.errors import UsageError
from taskarith.inspection.verify import verify

Q, UP = "self_attn.q_proj.weight", "mlp.fc1.weight"
FILTERED = [
    {"filter": "mlp", "value": [0.25, 1]},
    {"filter": "self_attn", "value": 0.75},
    {"value": [1, 0.5]},
]


def model(name, weight=None, **more):
    return {"model": str(name)} | ({} if weight is None else {"parameters": {"weight": weight}}) | more


@pytest.fixture(scope="module")
def three(tmp_path_factory, phi, phi_tuned):
    return phi, phi_tuned, tiny.save_model(tmp_path_factory.mktemp("third") / "third", nudge_of=phi, seed=5)


def merge(folder, config):
    (folder / "merge.yaml").write_text(yaml.safe_dump(config))
    arguments = ["apply", "--config", str(folder / "merge.yaml"), "-o", str(folder / "out")]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "500"})
    assert done.exit_code == 0, done.output
    assert verify(folder / "out").is_sound
    return oracle.load(folder / "out"), done.output


def check(got, models, weight_of):
    """Compare with ``sum of weight * model`` in float64: each element is the nearest float32.

    Exactly between two of them either will do: weights such as 1/5 are none in binary, and decide it one way or other.
    """
    loaded = [oracle.load(one) for one in models]
    for name, values in got.items():
        wide = sum(weight * one[name].double() for weight, one in zip(weight_of(name), loaded, strict=True)).numpy()
        best = np.abs(oracle.round_once(wide, torch.float32) - wide)
        assert (np.abs(values.double().numpy() - wide) <= best * (1 + 1e-6) + 1e-17).all(), name


def test_linear_divides_by_the_sum_of_the_weights_and_needs_no_base(tmp_path, three):
    _, one, two = three
    got, _ = merge(tmp_path, {"merge_method": "linear", "models": [model(one, 0.3), model(two, 0.9)]})
    check(got, [one, two], lambda _: [0.25, 0.75])
    record = json.loads((tmp_path / "out/taskarith.json").read_text())
    assert (tmp_path / "out" / record["base"]["name"]).resolve() == one
    assert [operand["coefficient"] for operand in record["operands"]] == [0.9 / 1.2]


def test_linear_with_a_base_that_is_not_listed_takes_the_common_weight_for_it(tmp_path, three):
    base, one, two = three
    models = [model(one, 3), model(two, "-1e0")]
    config = {"merge_method": "linear", "base_model": str(base), "models": models, "parameters": {"weight": 2}}
    check(merge(tmp_path, config)[0], [base, one, two], lambda _: [0.5, 0.75, -0.25])


def test_linear_takes_differences_to_its_own_base_whatever_a_model_records(tmp_path, three):
    base, one, two = three
    (tmp_path / "two").mkdir()
    for path in two.iterdir():
        (tmp_path / "two" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "two/taskarith.json").write_text(json.dumps({"base": {"name": str(base)}}))
    config = {"merge_method": "linear", "models": [model(one, 0.5), model(tmp_path / "two", 0.5)]}
    check(merge(tmp_path, config)[0], [one, two], lambda _: [0.5, 0.5])
    again = ["apply", "--config", str(tmp_path / "out/taskarith.json"), "-o", str(tmp_path / "again")]
    assert CliRunner().invoke(app, again).exit_code == 0
    assert oracle.differing(oracle.load(tmp_path / "again"), oracle.load(tmp_path / "out")) == []


def filtered(name):
    """FILTERED by hand, for two layers: a gradient has its first value outside of the layers."""
    if "mlp" in name:
        return 0.25 if ".layers.0." in name else 1.0
    if "self_attn" in name:
        return 0.75
    return 0.5 if ".layers.1." in name else 1.0


def test_filters_and_gradients_are_normalised_tensor_by_tensor(tmp_path, three):
    _, one, two = three
    config = {"merge_method": "linear", "models": [model(one, FILTERED), model(two, 0.25)]}
    got, _ = merge(tmp_path, config)

    def weights(name):
        total = filtered(name) + 0.25
        return [filtered(name) / total, 0.25 / total]

    check(got, [one, two], weights)


def test_task_arithmetic_is_the_sum_of_weighted_differences(tmp_path, three):
    base, one, two = three
    config = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [model(base), model(one, 0.3), model(two, -0.6)],
        "parameters": {"lambda": 0.7, "int8_mask": True, "density": 0.5},
        "dtype": "bfloat16",
        "out_dtype": "float32",
        "tokenizer_source": "base",
    }
    got, output = merge(tmp_path, config)
    tensors = [oracle.load(path) for path in three]
    for name, values in got.items():
        deltas = [tensors[index][name].double() - tensors[0][name].double() for index in (1, 2)]
        assert values.equal(oracle.edit(tensors[0][name], deltas, [0.3 * 0.7, -0.6 * 0.7], torch.float32))
    assert "int8_mask of mergekit has no effect" in output
    assert "density of mergekit has no effect" in output
    assert "float32 is the dtype of the output; the arithmetic is float64" in output


def test_task_arithmetic_with_everything_that_varies(tmp_path, three):
    base, one, two = three
    sources = [
        model(one, FILTERED, layer_range=[0, 2]),
        model(two, layer_range=[0, 2]),
        model(base, layer_range=[0, 2]),
    ]
    config = {
        "merge_method": "task_arithmetic",
        "slices": [{"sources": sources, "parameters": {"normalize": True, "lambda": [1, 0.5]}}],
        "base_model": str(base),
        "parameters": {"weight": 0.5, "normalize": False},
    }
    got, _ = merge(tmp_path, config)

    def weights(name):
        factor = (0.5 if ".layers.1." in name else 1.0) / (filtered(name) + 0.5)
        first, second = filtered(name) * factor, 0.5 * factor
        return [1 - first - second, first, second]

    check(got, three, weights)


def test_weights_that_sum_up_to_nothing_are_not_normalised_in_task_arithmetic(tmp_path, three):
    base, one, two = three
    config = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [model(one, 0.5), model(two, -0.5)],
        "parameters": {"normalize": True},
    }
    check(merge(tmp_path, config)[0], three, lambda _: [1, 0.5, -0.5])


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
        (LINEAR | {"merge_method": "passthrough"}, "mergekit's 'passthrough' is not done here"),
        (LINEAR | {"merge_method": ["linear"]}, r"mergekit's \['linear'\] is not done here"),
        (LINEAR | {"tokenizer_source": "union"}, "tokenizer_source 'union' is not done here"),
        (LINEAR | {"tokenizer": {"source": "base"}}, "tokenizer of mergekit is not done here"),
        (LINEAR | {"chat_template": "chatml"}, "built-in chat template 'chatml' is not done here"),
        (LINEAR | {"modules": {"a": {}}}, "modules of mergekit is not done here"),
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
        (LINEAR | {"parameters": {"normalize": False, "weight": 1}, "base_model": "b"}, "sum up to 2 is not done here"),
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
        ({"merge_method": "nuslerp", "models": TWO}, "nuslerp without a base_model is not done here"),
        (TIES | {"merge_method": "nuslerp", "base_model": "x"}, "2 models are too few or too many for nuslerp"),
        (
            TIES | {"merge_method": "nuslerp", "parameters": {"nuslerp_flatten": False}},
            "nuslerp_flatten of nuslerp is not done here",
        ),
        (
            {"merge_method": "karcher", "models": [model("x"), model("y")], "parameters": {"tol": 1e-9}},
            "tol of karcher is not done here",
        ),
        (LINEAR | {"merge_method": "karcher"}, "weight is not known in karcher of mergekit"),
        (
            {"merge_method": "model_stock", "base_model": "b", "models": [model("x"), model("y")]}
            | {"parameters": {"filter_wise": True}},
            "filter_wise of model_stock is not done here",
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
