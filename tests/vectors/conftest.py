"""Models that several modules of tests read."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import oracle
import pytest
import tiny
from bases import difference, record
from peft.utils.warning import PeftWarning

from taskarith.checkpoints.checkpoint import fingerprint_model


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A tiny Llama with a tied head, and a fine-tune of it."""
    place = tmp_path_factory.mktemp("pair")
    base = tiny.save_model(place / "base", "llama")
    return base, tiny.save_model(place / "tuned", "llama", nudge_of=base, seed=1)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A base, another model, and a fine-tune of the base."""
    room = tmp_path_factory.mktemp("models")
    base = tiny.save_model(room / "base")
    tiny.save_model(room / "tuned", nudge_of=base, seed=1)
    tiny.save_model(room / "other", nudge_of=base, seed=2, scale=3e-2)
    tiny.forget_base(room / "other")
    return room


@dataclass(frozen=True)
class Room:
    """A folder of a test: the models, the norm of the one right delta, and the fingerprint of the one right base."""

    path: Path
    norm: float
    fingerprint: str

    def __truediv__(self, name: str) -> Path:
        return self.path / name


@pytest.fixture
def room(tmp_path, models, monkeypatch):
    for folder in models.iterdir():
        shutil.copytree(folder, tmp_path / folder.name)
    record(tmp_path / "tuned", tmp_path / "base", models / "base")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    delta = difference(oracle.load(models / "tuned"), oracle.load(models / "base"))
    return Room(tmp_path, delta, fingerprint_model(models / "base"))


@pytest.fixture
def no_warnings_of_peft():
    with warnings.catch_warnings():
        for words in ("fan_in_fan_out", ".*save_embedding_layers", ".*tie", ".*tied", "\n*Model has", ".*target_param"):
            warnings.filterwarnings("ignore", f"(?s).*{words}", UserWarning)
        warnings.filterwarnings("ignore", "(?s).*lora_B.bias", PeftWarning)  # takes a bias for a broken factor
        warnings.filterwarnings("ignore", "(?s).*rank_pattern keys", RuntimeWarning)  # which it does not ignore
        yield
