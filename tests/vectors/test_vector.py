"""The base that a vector records."""

from __future__ import annotations

import pytest

from taskarith.vectors.vector import BaseRecord


def test_a_base_is_read_as_it_was_written():
    base = BaseRecord("org/m", "abc", "f" * 32, {"a": "1", "b": "2"})
    assert str(base) == "org/m@abc"
    back = BaseRecord.from_json(base.to_json())
    assert back == BaseRecord("org/m", "abc", "f" * 32)
    assert str(BaseRecord("/models/base")) == "/models/base"


@pytest.mark.parametrize("record", [None, {}, {"name": ""}, {"revision": "a"}, ["name"], "name"])
def test_without_a_name_there_is_no_base(record):
    assert BaseRecord.from_json(record) is None


def test_tensors_that_differ_are_counted_as_far_as_they_are_known():
    base = BaseRecord("m", tensors={"a": "1", "b": "2", "c": "3"})
    assert base.differing({"a": "1", "b": "other", "d": "4"}) == 3  # b, c is gone, d is new
    assert BaseRecord("m").differing({"a": "1"}) == 0
