"""The ranges of numbers: what settings exist has one, and its bounds are those that are said."""

from __future__ import annotations

from dataclasses import fields

import pytest

from taskarith.errors import UsageError
from taskarith.training.ranges import _RANGES, check_ranges
from taskarith.training.settings import TrainingSettings

NONE = dict.fromkeys(_RANGES)


def test_each_number_among_the_settings_has_a_range():
    numbers = {field.name for field in fields(TrainingSettings) if {"int", "float"} & set(str(field.type).split(" | "))}
    assert numbers == _RANGES.keys()


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [("seed", (0, 2**32 - 1), (-1, 2**32)), ("warmup_steps", (0, 0.5, 3), (-0.1, 1.5)), ("block_size", (2,), (1,))],
)
def test_bounds(name, good, bad):
    for value in good:
        check_ranges(NONE | {name: value})
    for value in bad:
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} is {value}"):
            check_ranges(NONE | {name: value})
