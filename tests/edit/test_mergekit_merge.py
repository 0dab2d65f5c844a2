"""Coefficients from a configuration of mergekit: averages and sums of differences, worked out by hand."""

from __future__ import annotations

import json

import oracle
import torch
from mergekit_files import FILTERED, check, filtered, merge, model
from typer.testing import CliRunner

from taskarith.cli.main import app


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
