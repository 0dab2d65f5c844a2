"""Parameters of mergekit's files: which of several settings counts for a tensor, and what cannot be read."""

from __future__ import annotations

import pytest

from taskarith.edit.mergekit_values import flag, number, setting_at
from taskarith.errors import UsageError

MLP, HEAD = "model.layers.1.mlp.up_proj.weight", "lm_head.weight"
BY_NAME = [{"filter": "mlp", "value": [0, 1]}, {"filter": "*", "value": 7}]


@pytest.mark.parametrize(
    ("scopes", "tensor", "place", "value"),
    [
        ([{"weight": 0.5}, {"weight": 1}], MLP, (1, 3), 0.5),  # the nearest counts
        ([{}, {"weight": 1}], MLP, (1, 3), 1),
        ([{"density": 1}, {}], MLP, (1, 3), None),
        ([{"weight": [0, 1]}], MLP, (1, 3), 0.5),  # layer 1 of 3 is half way
        ([{"weight": [0, 1]}], MLP, (2, 3), 1.0),
        ([{"weight": [4, 1]}], HEAD, None, 4.0),  # outside of the layers: the first value
        ([{"weight": BY_NAME}], MLP, (1, 3), 0.5),
        ([{"weight": BY_NAME}], HEAD, None, 7),
        ([{"weight": {"filter": "mlp", "value": 3}}, {"weight": 2}], HEAD, None, 2),  # no condition holds: the next one
        ([{"weight": []}, {"weight": 2}], MLP, (1, 3), 2),
        ([{"weight": [{"value": 5}, {"filter": "mlp", "value": 3}]}], MLP, (1, 3), 5),  # the first that holds
    ],
)
def test_the_nearest_setting_that_says_something_counts(scopes, tensor, place, value):
    assert setting_at("weight", scopes, tensor, place) == value


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ([{"filter": "mlp"}], "cannot read .* of weight"),
        ([{"filter": 3, "value": 1}], "cannot read .* of weight"),
        ([0, "x"], "the weight 'x' is not a finite number"),
        ([{"value": 1, "scale": 2}], "scale is unknown in weight"),
        ([{"value": {"value": 1}}], "a condition of weight holds conditions"),
    ],
)
def test_settings_that_cannot_be_read_are_named(setting, words):
    with pytest.raises(UsageError, match=words):
        setting_at("weight", [{"weight": setting}], MLP, (1, 3))


def test_numbers_and_flags():
    assert (number("t", "-1e0"), number("t", 3)) == (-1.0, 3.0)
    assert [flag("normalize", value) for value in (True, 0, 1.0)] == [True, False, True]
    for value in ("", None, True, float("inf"), [1]):
        with pytest.raises(UsageError, match=r"the t .* is not a finite number"):
            number("t", value)
    for value in (2, "yes", None):
        with pytest.raises(UsageError, match="neither true nor false"):
            flag("normalize", value)
