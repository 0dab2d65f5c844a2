"""Outputs before anything is calculated: free and occupied places, rights, space."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
import tiny
from outputs import data, fill_folder, vector
from publishing import fill, run
from typer.testing import CliRunner

from taskarith.attacks.attack import attack
from taskarith.checkpoints import targets
from taskarith.checkpoints.lock import lock_folder
from taskarith.checkpoints.provenance import PROVENANCE_NAME, write_provenance
from taskarith.checkpoints.publish import check_target, publish, publish_file, publish_folder
from taskarith.checkpoints.targets import check_apart, check_room, check_space
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.edit.undo import undo
from taskarith.errors import OutputError
from taskarith.evaluation.evaluate import evaluate
from taskarith.relations.importance import importance
from taskarith.sweeps.sweep import sweep
from taskarith.training.finetune import finetune
from taskarith.vectors.extract import extract
from taskarith.vectors.low_rank import extract_low_rank


def test_an_empty_folder_is_free_a_file_is_not(tmp_path):
    (tmp_path / "empty").mkdir()
    with publish_folder(tmp_path / "empty") as partial:
        fill(partial)
    (tmp_path / "file").touch()
    for overwrite, words in ((False, "already exists"), (True, "not a folder")):
        with pytest.raises(OutputError, match=words), publish_folder(tmp_path / "file", overwrite):
            pass
    with pytest.raises(OutputError, match="is a folder"), publish_file(tmp_path / "empty", overwrite=True):
        pass


@pytest.mark.parametrize("plan", ["", "p"])
def test_what_a_run_left_that_was_killed_when_it_was_done_goes_with_the_next_look(tmp_path, monkeypatch, plan):
    target, room = tmp_path / "out", tmp_path / ".out.partial"
    with monkeypatch.context() as patch:
        patch.setattr("taskarith.checkpoints.leftovers._empty", lambda _: None)  # a kill before that
        with publish(target, is_folder=True, plan=plan) as place:
            fill(place.path)
    for kept in ({"journal.jsonl"}, {"notes.txt"}, {"journal-1.jsonl"}):
        (tmp_path / "aside").write_text('{"plan": "p"}\n{"name": "a"}\n{"name": "b"}\n')
        for name in kept:
            shutil.copy(tmp_path / "aside", room / name)
        with pytest.raises(OutputError, match="already exists"):
            check_target(target, overwrite=False)
        assert kept <= {path.name for path in room.iterdir()}
        (room / kept.pop()).unlink()
    descriptor = lock_folder(room, target)  # by another run
    with pytest.raises(OutputError, match="already exists"):
        check_target(target, overwrite=False)
    assert room.exists()
    os.close(descriptor)
    with pytest.raises(OutputError, match="already exists"):
        check_target(target, overwrite=False)
    assert not room.exists()


def test_a_place_where_no_folder_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "sub" / "out", Path("/proc/absent/out")):
        with pytest.raises(OutputError, match="cannot"), publish_folder(place):
            pass
        with pytest.raises(OutputError, match="cannot"), publish_file(place):
            pass


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 100 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a small file system can be mounted by root only")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_too_small_is_found_out_before_anything_is_written(small_disk, tmp_path):
    base = tiny.save_model(tmp_path / "base")
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1)
    assert (base / "model.safetensors").stat().st_size > 100_000
    dry = run("apply", base, "--add", tuned, "-o", small_disk / "out", "--dry-run")
    assert dry.returncode == 0
    assert "would fail" in dry.stderr
    for arguments in (
        ["apply", base, "--add", tuned, "-o", small_disk / "out"],
        ["extract", base, tuned, "-o", small_disk / "v.safetensors"],
    ):
        done = run(*arguments)
        assert done.returncode == 1
        assert "no space left" in done.stderr
        assert list(small_disk.iterdir()) == []


def test_an_output_is_not_what_is_read_around_it_or_in_it(tmp_path):
    model = tmp_path / "models" / "base"
    model.mkdir(parents=True)
    (tmp_path / "link").symlink_to(model)
    for output, words in (
        (model, "is read by this command"),
        (tmp_path / "link", "is read by this command"),
        (model / "sub" / "out", "lies in"),
        (tmp_path / "models", "holds"),
    ):
        with pytest.raises(OutputError, match=words):
            check_apart(output, [model, "org/name", ""])
    check_apart(tmp_path / "models" / "edited", [model])


def test_a_room_that_no_run_left_is_not_built_in(tmp_path):
    room = tmp_path / ".out.partial"
    check_room(room)
    room.mkdir()
    (room / "journal.jsonl").touch()
    with pytest.raises(OutputError, match=r"no interrupted run left \(journal\.jsonl\)"):  # it would be locked
        check_room(room)
    (room / "lock").touch()
    check_room(room)
    (room / "diary").touch()
    with pytest.raises(OutputError, match=r"\(diary\)"):
        check_room(room)


VERBS = {
    "apply": lambda i, out: apply(str(i / "edited"), add=[vector(i)], output_dir=out, overwrite=True),
    "extract": lambda i, out: extract(str(i / "base"), str(i / "edited"), out, overwrite=True),
    "extract --rank": lambda i, out: extract_low_rank(str(i / "base"), str(i / "edited"), out, rank=2, overwrite=True),
    "combine": lambda i, out: combine(f"{vector(i)}:0.5", out, base=str(i / "edited"), overwrite=True),
    "undo": lambda i, out: undo(i / "edited", out, overwrite=True),
    "finetune": lambda i, out: finetune(str(i / "edited"), [data(i)["forget"]], out, max_steps=1, overwrite=True),
    "eval": lambda i, out: evaluate([str(i / "edited")], data(i), add=[vector(i)], output_dir=out, overwrite=True),
    "sweep": lambda i, out: sweep(
        str(i / "edited"), data(i), negate=[vector(i)], budget=1.0, output_dir=out, overwrite=True
    ),
    "importance": lambda i, out: importance(str(i / "edited"), *data(i).values(), out, overwrite=True),
    "attack": lambda i, out: attack(str(i / "edited"), data(i)["forget"], output_dir=out, overwrite=True),
}
FILES = {"extract", "combine", "importance"}
READS_DATA = {"finetune", "eval", "sweep", "importance", "attack"}


def snapshot(*folders):
    return {
        str(path): path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        for folder in folders
        for path in [folder, *folder.rglob("*")]
    }


def refused(verb, world, out, words, *more):
    before = snapshot(world, *more)
    with pytest.raises(OutputError, match=words) as caught:
        VERBS[verb](world, out)
    assert caught.value.hint
    assert snapshot(world, *more) == before


@pytest.mark.parametrize("verb", VERBS)
def test_no_output_is_holds_or_lies_in_what_is_read(tmp_path, world, verb):
    refused(verb, world, world / "edited", "is read by this command")
    refused(verb, world, world, "holds .*, which this command reads")
    refused(
        verb,
        world,
        world / "edited" / "deep" / ("out.safetensors" if verb in FILES else "out"),
        "lies in .*edited, which this command reads",
    )
    (tmp_path / "alias").symlink_to(world)
    refused(verb, world, tmp_path / "alias" / "edited", "is read by this command")
    if verb in READS_DATA:
        refused(verb, world, world / "forget", "holds .*, which this command reads")
    if verb in {"apply", "combine", "eval", "sweep"}:
        refused(verb, world, world / "v.safetensors", "is read by this command")


@pytest.mark.parametrize("verb", VERBS)
def test_what_taskarith_did_not_write_is_kept_and_named(tmp_path, world, verb):
    out = tmp_path / "out.safetensors" if verb in FILES else tmp_path / "out"
    if verb in FILES:
        out.write_text("thesis")
        refused(verb, world, out, r"nothing in .* says that taskarith wrote it", tmp_path)
        out.unlink()
    else:
        shutil.copytree(world / "edited", out)
        (out / "sub").mkdir()
        (out / "sub" / "notes.txt").write_text("thesis")
        refused(verb, world, out, r"says that taskarith wrote, and is kept: sub/notes\.txt", tmp_path)
        shutil.rmtree(out)
    for real in (world / "edited", tmp_path / "nowhere"):
        out.symlink_to(real)
        refused(verb, world, out, "is not a folder|is a folder|says that taskarith wrote it|is read by", tmp_path)
        out.unlink()
    room = tmp_path / f".{out.name}.partial"
    room.symlink_to(world / "edited")
    refused(verb, world, out, "in the way", tmp_path)
    room.unlink()
    room.mkdir()
    (room / "thesis.txt").touch()
    refused(verb, world, out, r"in the way: .*thesis\.txt", tmp_path)


@pytest.mark.parametrize("is_there", [True, False])
def test_what_lies_in_the_place_of_an_earlier_output_is_neither_moved_nor_removed(tmp_path, world, is_there):
    out, room = tmp_path / "out", tmp_path / ".out.partial"
    shutil.copytree(world / "edited", room / "old")
    (room / "lock").touch()
    (room / "old" / "thesis.txt").write_text("thesis")
    if is_there:
        shutil.copytree(world / "edited", out)
    refused("apply", world, out, r"old is in the way: no record says that taskarith wrote thesis\.txt", tmp_path)
    with pytest.raises(OutputError, match="in the way"), publish_folder(out, overwrite=True):
        pass
    assert (room / "old" / "thesis.txt").exists()
    (room / "old" / "thesis.txt").unlink()
    with pytest.raises(OutputError, match="already exists"), publish_folder(out):
        pass
    assert (out / PROVENANCE_NAME).exists()
    assert not room.exists()


def test_a_recipe_in_the_output_that_it_makes_is_kept(tmp_path, world):
    folder = tmp_path / "swept"
    folder.mkdir()
    text = f"model: {world / 'base'}\noperands: [{{vector: {vector(world)}, coefficient: 1.0}}]\n"
    (folder / "recipe.yaml").write_text(text)
    write_provenance(folder, {"kind": "sweep"})
    before = snapshot(folder)
    for command in (
        ["apply", "--config", folder / "recipe.yaml"],
        ["eval", world / "base", "--recipe", folder / "recipe.yaml", "--data", f"a={data(world)['forget']}"],
    ):
        done = CliRunner().invoke(app, [*map(str, command), "-o", str(folder), "--overwrite"])
        assert done.exit_code == 1
        assert "which this command reads" in done.stderr
        assert snapshot(folder) == before


def test_trials_may_not_be_stored_in_the_output(tmp_path, world):
    where = str(tmp_path / "out" / "trials.log")
    with pytest.raises(OutputError, match="holds"):
        sweep(
            str(world / "base"), data(world), negate=[vector(world)], budget=1.0, search=2, storage=where,
            output_dir=tmp_path / "out",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_the_current_folder_as_a_user_types_it(tmp_path, world, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["apply", str(world / "base"), "--add", vector(world), "-o", "."]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert CliRunner().invoke(app, command).exit_code == 1
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (world / "edited").iterdir()} - {
        "taskarith-undo.safetensors"
    }
    monkeypatch.chdir(world / "base")
    assert "is read by this command" in CliRunner().invoke(app, [*command, "--overwrite"]).stderr


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 125 + ".txt", "a.safetensors"])
def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path, name):
    with publish_folder(tmp_path / name) as partial:
        fill_folder(partial, "one")
    with publish_file(tmp_path / f"{name[:-1]}b") as partial:
        partial.touch()
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_written_is_refused_at_once(tmp_path):
    with pytest.raises(OutputError, match="has 256 bytes"):
        check_target(tmp_path / ("n" * 256), False)
    with pytest.raises(OutputError, match="cannot be an output"):
        check_target(Path("/"), True)
    with pytest.raises(OutputError, match="says that taskarith wrote"):
        check_target(tmp_path / "..", True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        check_target(tmp_path / "file" / "out", False)
    with pytest.raises(OutputError, match=r"no space left.* GB will be written"):
        check_space(tmp_path / "deep" / "out", 1 << 60)


def test_what_surely_will_not_fit_is_refused_at_once_and_nothing_else(tmp_path, world, monkeypatch):
    usage, out = namedtuple("usage", "free"), tmp_path / "out"
    text, base = data(world)["forget"], str(world / "base")
    verbs = [
        lambda: finetune(base, [text], out, max_steps=1, block_size=4),
        lambda: finetune(base, [text], out, max_steps=1, block_size=4, lora=True),
        lambda: undo(world / "edited", out),
        lambda: importance(base, text, text, out, block_size=4),
    ]
    monkeypatch.setattr("transformers.Trainer.train", None)  # it is not begun
    for verb in verbs:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000))
        with pytest.raises(OutputError, match=r"no space left.* GB will be written"):
            verb()
        assert list(tmp_path.iterdir()) == []
    room = targets.room_of(out)
    room.mkdir()
    (room / "output").write_bytes(bytes(1 << 20))  # of a run that was killed: it is removed, or gone on with
    check_space(out, 1 << 20)
    with pytest.raises(OutputError, match="no space left"):
        check_space(out, (1 << 20) + 10_000)


@pytest.mark.parametrize("jump", ["12 vectors", "one"])
def test_a_name_that_is_made_is_never_too_long(tmp_path, world, monkeypatch, jump):
    monkeypatch.chdir(tmp_path)
    names = [f"a_vector_with_quite_a_long_name_{index}.safetensors" for index in range(12 if jump[0] == "1" else 1)]
    for name in names:
        shutil.copy(vector(world), name)
    made = {apply(str(world / "base"), add=names, alpha=alpha).path.name for alpha in (0.5, 1.0)}
    assert len(made) == 2
    assert all(len(name) <= 255 for name in made)
