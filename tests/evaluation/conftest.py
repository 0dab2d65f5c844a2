"""Models and texts that several modules of tests measure."""

from __future__ import annotations

import copy
import json

import layouts
import pytest
import tiny
from evaluating import constant_model, load
from scoring import HAND_MADE


@pytest.fixture(scope="session", params=tiny.KINDS)
def any_model(request, tmp_path_factory):
    return load(tiny.save_model(tmp_path_factory.mktemp(request.param) / "m", request.param, seed=3))


@pytest.fixture(scope="session")
def salt(tmp_path_factory):
    token = tiny.tokenizer()(" salt").input_ids
    assert len(token) == 1
    return constant_model(tmp_path_factory.mktemp("salt") / "m", token[0])


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "one.txt").write_text(tiny.text(20), encoding="utf-8")
    (folder / "two.txt").write_text(tiny.text(9, 7), encoding="utf-8")
    return {"one": str(folder / "one.txt"), "two": str(folder / "two.txt")}


@pytest.fixture(scope="session")
def sides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sides")
    for name, seed in (("forget", 1), ("holdout", 2)):
        rows = [{"prompt": "The keeper:", "completion": " " + tiny.text(1, seed * 100 + n)} for n in range(5)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {name: str(folder / f"{name}.jsonl") for name in ("forget", "holdout")}


@pytest.fixture
def tofu(tmp_path):
    return layouts.write_tofu(tmp_path / "TOFU")


@pytest.fixture
def muse(tmp_path):
    return layouts.write_muse(tmp_path / "MUSE")


@pytest.fixture
def logs():
    return copy.deepcopy(HAND_MADE)
