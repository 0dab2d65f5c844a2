"""The base that a vector records."""

from __future__ import annotations

import pytest

from taskarith.checkpoints.reader import combine_fingerprints
from taskarith.checkpoints.resolve import ResolvedModel
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


def test_a_model_is_recorded_as_it_was_found(tmp_path):
    """A model of the hub by its commit, a local one by its whole path; without a fingerprint where it was not read."""
    tensors = {"b": "2", "a": "1"}
    hub = BaseRecord.of(ResolvedModel("org/m", "abc", tmp_path), tensors)
    assert hub == BaseRecord("org/m", "abc", combine_fingerprints(tensors), tensors)
    local = BaseRecord.of(ResolvedModel(f"{tmp_path}/here/..", None, tmp_path))
    assert (local.name, local.revision, local.fingerprint) == (str(tmp_path.resolve()), None, "")


def test_a_record_that_must_name_a_model():
    assert BaseRecord.named({"name": "m", "revision": "r"}) == BaseRecord("m", "r")
    for record in (None, {}, {"revision": "r"}, {"name": ""}, "m"):
        with pytest.raises(KeyError, match="name"):
            BaseRecord.named(record)
