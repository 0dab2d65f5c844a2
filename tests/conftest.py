"""Shared fixtures: no network, no user cache, tiny models built once a session."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_TELEMETRY="1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin make tests many times slower on a busy machine

import tiny  # not earlier: the environment must be set before transformers is imported
from preloaded import preloaded_command

from taskarith.arithmetic.kernels.compile import GROUPS, load_kernels

load_kernels(*GROUPS)  # no test is to be the one that compiles them, and says so

settings.register_profile("taskarith", deadline=None)  # the first example may compile the kernels
settings.load_profile("taskarith")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one worker run all tests that use ``preloaded``, so that its imports take place once."""
    for item in items:
        if "preloaded" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("preloaded"))


def pytest_collection_finish() -> None:
    """Keep what was imported out of garbage collections, which accelerate asks for: each would take half a second."""
    gc.freeze()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep what a test caches away from the user and from other tests, whose equal models would be found by it."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache / "datasets"))
    monkeypatch.setattr("taskarith.checkpoints.places.cache_folders", lambda part: [cache / part])


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory) -> Generator[Path]:
    """Return the folder of ``taskarith`` and ``preloaded-python``, which start at once."""
    folder = tmp_path_factory.mktemp("preloaded")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "datasets")}
    with preloaded_command(folder, environment | {"PYTHONPATH": os.pathsep.join(sys.path)}) as commands:
        yield commands


@pytest.fixture(scope="session")
def phi(tmp_path_factory) -> Path:
    """A tiny Phi, the architecture of the reference model, in float32."""
    return tiny.save_model(tmp_path_factory.mktemp("phi") / "base")


@pytest.fixture(scope="session")
def phi_tuned(tmp_path_factory, phi) -> Path:
    """The tiny Phi with every weight moved a little."""
    return tiny.save_model(tmp_path_factory.mktemp("phi") / "tuned", nudge_of=phi, seed=1)


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> dict[str, Any]:
    """A model that learned two texts after another one, and the vector of each text: see ``sweeping``."""
    from sweeping import make_lab

    return make_lab(tmp_path_factory.mktemp("sweep"))


@pytest.fixture
def book(tmp_path) -> Path:
    """A text file long enough for several blocks."""
    path = tmp_path / "book.txt"
    path.write_text(tiny.text(60), encoding="utf-8")
    return path
