"""Vectors and texts that several commands read."""

from __future__ import annotations

import pytest
import tiny
from extracting import save_two_vectors


@pytest.fixture(scope="session")
def vectors(tmp_path_factory, phi):
    """A folder with two vectors of the tiny Phi, ``a.safetensors`` and ``b.safetensors``."""
    folder = tmp_path_factory.mktemp("vectors")
    save_two_vectors(folder, phi)
    return folder


@pytest.fixture
def forget(tmp_path):
    path = tmp_path / "forget.txt"
    path.write_text(tiny.text(12), encoding="utf-8")
    return path
