"""Vectors and texts that several commands read."""

from __future__ import annotations

import pytest
import tiny

from taskarith.vectors.extract import extract


@pytest.fixture(scope="session")
def vectors(tmp_path_factory, phi):
    """A folder with two vectors of the tiny Phi, ``a.safetensors`` and ``b.safetensors``."""
    folder = tmp_path_factory.mktemp("vectors")
    for name, seed in (("a", 1), ("b", 2)):
        tiny.save_model(folder / f"tuned-{name}", nudge_of=phi, seed=seed)
        extract(str(phi), str(folder / f"tuned-{name}"), folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def forget(tmp_path):
    path = tmp_path / "forget.txt"
    path.write_text(tiny.text(12), encoding="utf-8")
    return path
