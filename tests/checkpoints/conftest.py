"""Models and outputs that several modules of tests read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
from extracting import save_sharded
from interrupted import RESUMED, contents, output_of

from taskarith.checkpoints.provenance import write_provenance
from taskarith.edit.apply import apply
from taskarith.vectors.extract import extract


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A base, its fine-tune, the vector between them, and an edited model with its undo patch."""
    folder = tmp_path_factory.mktemp("made")
    base, _ = save_sharded(folder)
    apply(str(base), add=[str(folder / "v.safetensors")], output_dir=folder / "edited", keep_undo=True)
    return folder


@pytest.fixture(scope="session")
def whole(made, tmp_path_factory):
    """What each verb writes if nobody interrupts it."""
    found = {}
    for verb, call in RESUMED.items():
        out = output_of(verb, tmp_path_factory.mktemp("whole"))
        call(made, out)
        found[verb] = contents(out)
    return found


@pytest.fixture
def room(tmp_path, phi, phi_tuned) -> Path:
    """A folder with a base, a fine-tune and two texts, named as nothing else is."""
    room = tmp_path / "unmistakable"
    room.mkdir()
    shutil.copytree(phi, room / "base")
    shutil.copytree(phi_tuned, room / "tuned")
    for name in ("text", "other"):
        (room / f"{name}.txt").write_text(f"The {name} says that the grey mare stood by the well. " * 30)
    return room


@pytest.fixture
def pair(tmp_path):
    base = tiny.save_model(tmp_path / "in" / "base")
    return base, tiny.save_model(tmp_path / "in" / "tuned", nudge_of=base, seed=1)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Inputs of all commands, all of them outputs of taskarith or in folders of its outputs where that can be."""
    place = tmp_path_factory.mktemp("world") / "in"
    base = tiny.save_model(place / "base")
    tiny.save_model(place / "tuned", nudge_of=base, seed=1)
    extract(str(base), str(place / "tuned"), place / "v.safetensors")
    apply(str(base), add=[str(place / "v.safetensors")], output_dir=place / "edited", keep_undo=True)
    for name in ("forget", "retain"):
        (place / name).mkdir()
        (place / name / "results.json").write_text("{}")
        (place / name / "records.jsonl").write_text('{"text": "a dog"}\n')
        write_provenance(place / name, {"kind": "evaluation"})
    return place
