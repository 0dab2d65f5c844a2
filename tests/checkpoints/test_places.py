"""Files that are kept name nothing of the machine, and what they name is found: beside them, or where it lay."""

from __future__ import annotations

import json
from pathlib import Path

import oracle
import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from taskarith.checkpoints.places import absolute_name, absolute_names, relative_names
from taskarith.checkpoints.provenance import read_provenance
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.vectors.extract import extract


def run(*words: object) -> None:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output


def test_no_command_writes_the_path_of_an_input_or_output(room, monkeypatch):
    monkeypatch.chdir(room)
    base, tuned, v, text = room / "base", room / "tuned", room / "v.safetensors", room / "text.txt"
    retain = room / "other.txt"
    run("extract", base, tuned, "-o", v)
    run("extract", base, tuned, "--exact", "-o", room / "exact.safetensors")
    run("extract", base, tuned, "--rank", 2, "-o", room / "lowrank")
    run("combine", f"{v}:0.5", "-o", room / "half.safetensors")
    run("apply", base, "--negate", v, "-o", room / "edited", "--keep-undo")
    run("apply", base, f"--add={tuned}@@{base}", "-o", room / "learned")
    run("importance", base, "--forget", text, "--retain", retain, "--block-size", 16, "-o", room / "w.safetensors")
    more = ("--max-steps", 1, "--block-size", 16)
    run("finetune", base, "--data", text, "--retain", retain, *more, "-o", room / "full")
    run("finetune", base, "--data", text, "--lora", *more, "-o", room / "lora")
    run("eval", base, room / "edited", "--data", f"forget={text}", "--block-size", 16, "--prompts", 0, "-o", room / "e")
    made = [path for path in room.rglob("*") if path.is_file() and not path.is_relative_to(base)]
    assert len(made) > 40
    named = {path.relative_to(room).as_posix() for path in made if b"unmistakable" in path.read_bytes()}
    # PEFT looks for the base there, and not relative to the adapter; a model of an evaluation is called as it was named
    assert named - {"e/records.jsonl", "e/results.json"} == {"lora/adapter_config.json", "lowrank/adapter_config.json"}
    assert read_provenance(room / "edited")["base"]["name"] == str(base)


def test_what_was_made_together_moves_together(room, tmp_path, monkeypatch):
    extract(str(room / "base"), str(room / "tuned"), room / "vectors" / "v.safetensors")
    apply(negate=[str(room / "vectors" / "v.safetensors")], output_dir=room / "edited")
    room.rename(tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere"
    monkeypatch.setattr("taskarith.checkpoints.places.cache_folders", lambda part: [tmp_path / "nothing" / part])
    apply(negate=[str(moved / "vectors" / "v.safetensors")], output_dir=tmp_path / "again")
    assert oracle.differing(oracle.load(tmp_path / "again"), oracle.load(moved / "edited")) == []
    run("verify", moved / "edited")


def test_a_vector_that_was_moved_alone_still_finds_its_base(room, tmp_path):
    extract(str(room / "base"), str(room / "tuned"), room / "v.safetensors")
    apply(negate=[str(room / "v.safetensors")], output_dir=room / "edited")
    (tmp_path / "far" / "away").mkdir(parents=True)
    (room / "v.safetensors").rename(tmp_path / "far" / "away" / "v.safetensors")
    apply(negate=[str(tmp_path / "far" / "away" / "v.safetensors")], output_dir=tmp_path / "again")
    assert oracle.differing(oracle.load(tmp_path / "again"), oracle.load(room / "edited")) == []


@pytest.mark.parametrize(
    ("path", "folder", "written"),
    [
        ("/a/models/base", "/a/runs", "../models/base"),
        ("/a/base", "/a", "./base"),
        ("/home/ann/base", "/a/runs", "~/base"),
        ("/home/ann/base", "/home/ann/runs", "../base"),
        ("/a/base", "/home/ann/runs", "../../../a/base"),
    ],
)
def test_a_name_is_written_and_read(path, folder, written, tmp_path, monkeypatch):
    path, folder, home = (tmp_path / one.strip("/") for one in (path, folder, "home/ann"))
    for one in (path, folder, home):
        one.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("HOME", str(home))
    record = {"base": {"name": str(path)}, "operands": [{"name": str(path), "base": str(path)}]}
    found = relative_names(record, folder)
    assert found["base"]["name"] == written
    assert absolute_names(found, folder) == record
    assert absolute_names(json.loads(json.dumps(found)), folder) == record


@pytest.mark.parametrize(
    "text", ["org/name", "/", "", "/no/such/folder/here", "a/b@c", "/\0", "../\0", "{% if %}", "/n"]
)
def test_what_is_not_a_path_stays(text, tmp_path):
    assert relative_names({"name": text, "other": [text, 1, None]}, tmp_path)["other"] == [text, 1, None]
    assert absolute_name(text, tmp_path) == text


def test_texts_in_records_keep_what_looks_like_a_path(tmp_path):
    record = {"chat_template": f"{{{{ x }}}}:{tmp_path}", "arguments": {"system_prompt": str(tmp_path)}}
    assert relative_names(record, tmp_path / "out") == record


def test_without_a_home_names_are_still_written(tmp_path, monkeypatch):
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    assert relative_names(str(tmp_path), tmp_path) == "./."
    assert absolute_name("./a", tmp_path) == str(tmp_path / "a")


def test_the_header_of_a_vector_names_its_base_beside_it(room):
    extract(str(room / "base"), str(room / "tuned"), room / "v.safetensors")
    with safe_open(str(room / "v.safetensors"), "np") as file:
        assert file.metadata()["base"] == "./base"
        assert json.loads(file.metadata()["finetuned"])["name"] == "./tuned"
