"""What a training starts from: read once, checked before any weight, and nothing written."""

from __future__ import annotations

import pytest
import tiny

from taskarith.errors import TaskarithError
from taskarith.progress import SILENT
from taskarith.training.prepare import prepare
from taskarith.training.settings import TrainingSettings


@pytest.fixture
def text(tmp_path):
    (tmp_path / "forget.txt").write_text(tiny.text(12, 1), encoding="utf-8")
    return tmp_path / "forget.txt"


def prepared(phi, text, **settings):
    given = TrainingSettings(**{"block_size": 16, "device": "cpu"} | settings)
    return prepare(phi, text, text.parent / "out", (), (), False, given, SILENT)


def test_all_but_the_weights_is_there(phi, text):
    ready = prepared(phi, text)
    assert ready.target == text.parent / "out"
    assert ready.record["data"][0]["samples"] == len(ready.examples) > 1
    assert ready.record["processes"] == 1
    assert ready.nbytes == sum(4 * entry.elements for entry in ready.base.checkpoint.tensors.values())
    assert [path.name for path in text.parent.iterdir()] == ["forget.txt"]


def test_an_adapter_takes_no_room_of_a_model(phi, text):
    assert prepared(phi, text, lora=True).nbytes == 0


@pytest.mark.parametrize("wrong", [{"block_size": 10**6}, {"report_to": ("nobody",)}, {"retain_weight": 2.0}], ids=str)
def test_what_cannot_be_trained_is_refused(wrong, phi, text):
    with pytest.raises(TaskarithError):
        prepared(phi, text, **wrong)
    assert [path.name for path in text.parent.iterdir()] == ["forget.txt"]
