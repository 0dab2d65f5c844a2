"""What taskarith wrote is known by its record, header or metadata; all else is foreign."""

from __future__ import annotations

import json

import pytest
from headers import write_raw
from matplotlib.figure import Figure
from outputs import vector
from publishing import fill
from typer.testing import CliRunner

from taskarith.checkpoints.ownership import DRAWN_BY, VECTOR_FORMAT, entry_names, foreign_entries
from taskarith.checkpoints.provenance import PROVENANCE_NAME, write_provenance
from taskarith.cli.main import app


def test_a_folder_is_ours_but_for_what_its_record_does_not_list(tmp_path):
    fill(tmp_path)
    assert foreign_entries(tmp_path) == []
    (tmp_path / "sub/diary.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    assert foreign_entries(tmp_path) == ["empty/", "link@", "sub/diary.txt"]
    assert entry_names(tmp_path) == {"empty", "link", "sub", "taskarith.json"}


@pytest.mark.parametrize("record", [None, "{", "[]", '{"kind": "edit"}'])
def test_without_a_record_of_ours_everything_is_foreign(tmp_path, record):
    (tmp_path / "model.safetensors").touch()
    if record is not None:
        (tmp_path / "taskarith.json").write_text(record)
    assert "model.safetensors" in foreign_entries(tmp_path)


def test_vectors_and_pictures_are_known_by_their_beginnings(tmp_path):
    vector = write_raw(tmp_path / "v.safetensors", {"__metadata__": {"format": VECTOR_FORMAT}})
    other = write_raw(tmp_path / "w.safetensors", {"__metadata__": {"format": "pt"}})
    (tmp_path / "curve.svg").write_text(f'<?xml version="1.0"?><svg><dc:title>{DRAWN_BY}</dc:title></svg>')
    (tmp_path / "photo.svg").write_text('<?xml version="1.0"?><svg/>')
    (tmp_path / "link").symlink_to(vector)
    found = {path.name: foreign_entries(path) for path in tmp_path.iterdir()}
    assert found == {vector.name: [], "curve.svg": [], other.name: ["."], "photo.svg": ["."], "link": ["."]}


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_picture_replaces_only_one_of_ours(tmp_path, world, suffix):
    plot = tmp_path / "deep" / f"map{suffix}"

    def draw(*more, vectors=2, to=plot):
        return CliRunner().invoke(app, ["relate", *[vector(world)] * vectors, "--plot", str(to), *more])

    assert draw().exit_code == 0
    drawn = plot.read_bytes()
    again = draw()
    assert again.exit_code == 1
    assert "already exists" in again.stderr
    assert draw("--overwrite", vectors=3).exit_code == 0
    assert plot.read_bytes() != drawn
    figure = Figure()
    figure.savefig(tmp_path / f"mine{suffix}")
    for name, text in (("mine", (tmp_path / f"mine{suffix}").read_bytes()), ("text", b"taskarith"), ("empty", b"")):
        other = tmp_path / f"{name}{suffix}"
        other.write_bytes(text)
        assert "nothing in" in draw("--overwrite", to=other).stderr
        assert other.read_bytes() == text
    (tmp_path / f"link{suffix}").symlink_to(plot)
    assert "nothing in" in draw("--overwrite", to=tmp_path / f"link{suffix}").stderr
    assert "lies in" in draw("--model", str(world / "edited"), to=world / "edited" / plot.name).stderr
    assert {path.name for path in tmp_path.rglob("*")} == {
        "deep",
        *(f"{n}{suffix}" for n in ["map", "mine", "text", "empty", "link"]),
    }


def record(folder, kind, **more):
    write_provenance(folder, {"kind": kind, **more})
    text = json.loads((folder / PROVENANCE_NAME).read_text())
    text.pop("files", None)  # as earlier releases wrote it
    (folder / PROVENANCE_NAME).write_text(json.dumps(text))


OWN = {
    "edit": "model-00001-of-00002.safetensors model.safetensors.index.json taskarith-undo.safetensors config.json "
    "tokenizer.json chat_template.jinja LICENSE odd.base",
    "full": "model.safetensors config.json generation_config.json vocab.json merges.txt README.md "
    "runs/Jan01_host/events.out.tfevents.1.host",
    "lora": "adapter_model.safetensors adapter_config.json tokenizer_config.json README.md",
    "lowrank": "adapter_model.safetensors adapter_config.json rest.safetensors",
    "combination": "adapter_model.safetensors adapter_config.json",
    "evaluation": "results.json records.jsonl",
    "sweep": "results.json records.jsonl recipe.yaml curve.svg curve.png",
    "attack": "results.json records.jsonl recovery.svg recovery.png",
}


@pytest.mark.parametrize("kind", OWN)
def test_outputs_of_earlier_releases_are_known_by_their_kind(tmp_path, kind):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "odd.base").touch()
    folder = tmp_path / "out"
    for name in OWN[kind].split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    record(folder, kind, base={"name": str(tmp_path / "base")})
    assert foreign_entries(folder) == []
    for name in ("notes.txt", "plot.py", "data/forget.jsonl", "empty/", "taskarith.json.bak", ".hidden", "link"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if name == "link":
            path.symlink_to(tmp_path)
        elif name.endswith("/"):
            path.mkdir()
        else:
            path.touch()
    assert len(foreign_entries(folder)) == 7
    (folder / PROVENANCE_NAME).write_text('{"kind": "edit"}')  # of another program
    assert {name.partition("/")[0] for name in OWN[kind].split()} < set(foreign_entries(folder))
