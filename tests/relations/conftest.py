"""Vectors of one base, and texts, that several modules of tests read."""

from __future__ import annotations

import pytest
import tiny
from adapters import save_adapter

from taskarith.training.finetune import finetune
from taskarith.vectors.extract import extract


@pytest.fixture(scope="session")
def room(tmp_path_factory, phi):
    """Vectors of one base in several forms: a and b are different, the forms of a are the same numbers."""
    room = tmp_path_factory.mktemp("relate")
    for name, seed in (("a", 1), ("b", 2)):
        tiny.save_model(room / f"tuned-{name}", nudge_of=phi, seed=seed)
        extract(str(phi), str(room / f"tuned-{name}"), room / f"{name}.safetensors", dtype="float64")
    extract(str(phi), str(room / "tuned-a"), room / "exact.safetensors", exact=True)
    save_adapter(phi, room / "adapter", seed=3)
    return room


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    room = tmp_path_factory.mktemp("texts")
    for number in (1, 2):
        (room / f"{number}.txt").write_text(tiny.text(24, number), encoding="utf-8")
    return {"one": str(room / "1.txt"), "two": str(room / "2.txt")}


@pytest.fixture(scope="session")
def lessons(tmp_path_factory, phi, texts):
    """Vectors of what a model learned of each text, one of them an adapter."""
    room = tmp_path_factory.mktemp("lessons")
    how = {"block_size": 16, "num_train_epochs": 2, "per_device_train_batch_size": 4}
    for name, lora in (("one", False), ("two", True)):
        finetune(str(phi), [texts[name]], room / name, lora=lora, learning_rate=5e-3, **how)
    extract(str(phi), str(room / "one"), room / "one.safetensors")
    return {"one": str(room / "one.safetensors"), "two": str(room / "two")}
