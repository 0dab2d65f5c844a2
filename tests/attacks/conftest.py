"""Texts and models that several modules of tests attack."""

from __future__ import annotations

import pytest
import tiny


@pytest.fixture
def forget(tmp_path):
    path = tmp_path / "forget.txt"
    path.write_text(tiny.text(12), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def retain(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("retain") / "m", seed=5)
