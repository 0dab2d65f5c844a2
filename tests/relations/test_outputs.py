"""Outputs of all commands: nothing that is read, and nothing that taskarith did not write, is ever replaced."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections import namedtuple
from pathlib import Path

import pytest
import tiny
from matplotlib.figure import Figure
from typer.testing import CliRunner

from taskarith.attacks.attack import attack
from taskarith.checkpoints import targets
from taskarith.checkpoints.ownership import foreign_entries
from taskarith.checkpoints.provenance import PROVENANCE_NAME, write_provenance
from taskarith.checkpoints.publish import check_target, publish_file, publish_folder
from taskarith.checkpoints.sidecars import check_sidecars, copy_sidecars
from taskarith.checkpoints.targets import check_space
from taskarith.cli.main import app
from taskarith.demo.replacing import bring_back, replacing
from taskarith.demo.run import run_demo
from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.edit.undo import undo
from taskarith.errors import CheckpointError, OutputError
from taskarith.evaluation.evaluate import evaluate
from taskarith.relations.importance import importance
from taskarith.sweeps.sweep import sweep
from taskarith.training.finetune import finetune
from taskarith.vectors.extract import extract
from taskarith.vectors.low_rank import extract_low_rank


@pytest.fixture(scope="module")
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


def data(place):
    return {name: str(place / name / "records.jsonl") for name in ("forget", "retain")}


def vector(place):
    return str(place / "v.safetensors")


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
    "demo": lambda i, out: run_demo(str(i / "edited"), out, overwrite=True),
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
    assert room.exists() == is_there


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


def test_trials_may_not_be_stored_in_the_output(tmp_path, world):
    where = str(tmp_path / "out" / "trials.log")
    with pytest.raises(OutputError, match="holds"):
        sweep(
            str(world / "base"), data(world), negate=[vector(world)], budget=1.0, search=2, storage=where,
            output_dir=tmp_path / "out",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


# what is ours


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
    "demo": "results.json alpha.svg alpha.png texts/saga_1.txt texts/manual.txt",
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


def test_a_demo_holds_outputs_that_are_its_own(tmp_path, world):
    demo = tmp_path / "demo"
    demo.mkdir()
    record(demo, "demo")
    shutil.copytree(world / "edited", demo / "tuned")
    shutil.copy(vector(world), demo / "forgotten.safetensors")
    (demo / ".learned-aligned.partial" / "output").mkdir(parents=True)
    assert foreign_entries(demo) == []
    shutil.copy(vector(world), demo / "mine.safetensors")
    (demo / "aligned.safetensors").write_text("thesis")
    (demo / "tuned" / "notes.txt").write_text("thesis")
    foreign = foreign_entries(demo)
    assert {"mine.safetensors", "aligned.safetensors", "tuned/notes.txt"} <= set(foreign)


def test_an_earlier_demo_comes_back_or_goes(tmp_path):
    folder = tmp_path / "demo"

    def fill(text):
        folder.mkdir(exist_ok=True)
        write_provenance(folder, {"kind": "demo", "text": text})
        (folder / "results.json").write_text(text)

    def fail():
        with replacing(folder):
            folder.mkdir(exist_ok=True)
            write_provenance(folder, {"kind": "demo"})
            raise KeyboardInterrupt

    fill("one")
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (folder / "results.json").read_text() == "one"
    with replacing(folder):
        fill("two")
    assert (folder / "results.json").read_text() == "two"
    assert list(tmp_path.iterdir()) == [folder]
    folder.rename(tmp_path / ".demo.old")  # as if the next one had been killed
    (tmp_path / ".demo.old" / "moved").touch()
    folder.mkdir()
    write_provenance(folder, {"kind": "demo"})
    bring_back(folder)
    assert (folder / "results.json").read_text() == "two"
    assert list(tmp_path.iterdir()) == [folder]
    (tmp_path / ".demo.old").mkdir()
    (tmp_path / ".demo.old" / "thesis.txt").touch()
    with pytest.raises(OutputError, match="in the way"):
        bring_back(folder)


# folders that have to stay


def fill(folder, text):
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text(text)
    (folder / f"{text}.txt").write_text(text)
    write_provenance(folder, {"kind": "evaluation"})


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=["mounted", "current", "parent may not be written"])
def staying(request, tmp_path, monkeypatch):
    """A folder that cannot be exchanged for another one, by name."""
    place = tmp_path / "volume"
    place.mkdir()
    if request.param == "current":
        monkeypatch.chdir(place)
        return Path()
    if request.param == "mounted":
        monkeypatch.setattr(targets, "_is_mounted", lambda path: path == place)
    else:
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and access(path, mode))
    return place


def test_a_folder_that_stays_is_filled_in_place(tmp_path, staying):
    inode = staying.stat().st_ino
    for text in ("one", "two"):
        with publish_folder(staying, overwrite=True) as partial:
            fill(partial, text)
            assert partial.is_relative_to(staying.resolve())
    assert staying.stat().st_ino == inode
    assert files(staying) == {"sub/a.txt", "two.txt", PROVENANCE_NAME}
    with pytest.raises(OutputError, match="already exists"), publish_folder(staying):
        pass
    with pytest.raises(FileExistsError), publish_folder(staying, overwrite=True) as partial:
        fill(partial, "three") or fill(partial, "three")
    (staying / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"is kept: notes\.txt"), publish_folder(staying, overwrite=True):
        pass
    assert files(staying) == {"sub/a.txt", "two.txt", "notes.txt", PROVENANCE_NAME}
    assert list(tmp_path.iterdir()) == [tmp_path / "volume"]


def test_moves_that_were_stopped_are_carried_out(staying, monkeypatch):
    with publish_folder(staying) as partial:
        fill(partial, "one")
    rename, left = Path.rename, 0

    def stop(self, target):
        nonlocal left
        if left == 0:
            raise OSError(5, "stopped")
        left -= 1
        return rename(self, target)

    for count in range(1, 7):  # of the list of moves, three out, and three in
        left = count
        monkeypatch.setattr(Path, "rename", stop)
        with pytest.raises(OutputError, match="stopped"), publish_folder(staying, overwrite=True) as partial:
            fill(partial, "two")
        monkeypatch.setattr(Path, "rename", rename)
        with pytest.raises(OutputError, match="already exists"), publish_folder(staying):
            pass
        assert files(staying) == {"sub/a.txt", "two.txt", PROVENANCE_NAME}
        with publish_folder(staying, overwrite=True) as partial:
            fill(partial, "one")


def test_a_list_of_moves_of_somebody_else_moves_nothing(tmp_path, staying):
    with publish_folder(staying) as partial:
        fill(partial, "one")
    (tmp_path / "thesis.txt").touch()
    (staying / "notes.txt").touch()
    room = targets.room_of(staying)
    for moves in ('{"old": ["../thesis.txt"], "new": []}', "[" * 9999, '{"old": ["notes.txt"], "new": []}', "{}"):
        room.mkdir(exist_ok=True)
        (room / "lock").touch()
        (room / "moves.json").write_text(moves)
        with pytest.raises(OutputError), publish_folder(staying, overwrite=True):
            pass
    assert (tmp_path / "thesis.txt").exists()
    assert (staying / "notes.txt").exists() or (room / "old" / "notes.txt").exists()


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


# what fails, fails first


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 125 + ".txt", "a.safetensors"])
def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path, name):
    with publish_folder(tmp_path / name) as partial:
        fill(partial, "one")
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


def make(path, kind, outside):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"outside": outside, "nowhere": "nowhere", "loop": path.name}[kind])


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        *((verb, kind) for verb in ("apply", "finetune") for kind in ("outside", "nowhere", "loop", "pipe")),
        ("tokenizer", "outside"),  # what is not a file is none of a tokenizer's
        ("template", "outside"),
    ],
)
def test_files_that_cannot_travel_are_refused_before_anything_is_written(tmp_path, world, verb, kind):
    secret = tmp_path / "secret"
    secret.write_text("PRIVATE KEY")
    model = tmp_path / "model"
    shutil.copytree(world / "edited", model)
    name = "chat_template.jinja" if verb in {"tokenizer", "template"} else "README.md"
    (model / name).unlink(missing_ok=True)
    make(model / name, kind, secret)
    base, out, add = str(world / "base"), tmp_path / "out", [vector(world)]
    calls = {
        "apply": lambda: apply(str(model), add=add, output_dir=out),
        "finetune": lambda: finetune(str(model), [data(world)["forget"]], out, max_steps=1),
        "tokenizer": lambda: apply(base, add=add, tokenizer=str(model), output_dir=out),
        "template": lambda: apply(base, add=add, chat_template=str(model), output_dir=out),
    }
    with pytest.raises(CheckpointError, match="cannot travel with the model"):
        calls[verb]()
    assert {path.name for path in tmp_path.iterdir()} == {"secret", "model"}


def test_links_of_the_hubs_cache_and_within_the_folder_are_followed(tmp_path):
    snapshot_folder, blobs = tmp_path / "models--a--b" / "snapshots" / "abc", tmp_path / "models--a--b" / "blobs"
    (snapshot_folder / "sub").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_text("text")
    (snapshot_folder / "README.md").symlink_to("../../blobs/123")
    (snapshot_folder / "sub" / "a.py").symlink_to("../../../blobs/123")
    (snapshot_folder / "LICENSE").symlink_to("README.md")
    copy_sidecars(snapshot_folder, ["README.md", "sub/a.py", "LICENSE"], tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert files(tmp_path / "out") == {"README.md", "sub/a.py", "LICENSE"}
    (tmp_path / "secret").touch()
    (blobs / "456").symlink_to(tmp_path / "secret")
    (snapshot_folder / "NOTICE").symlink_to("../../blobs/456")
    with pytest.raises(CheckpointError, match="out of its folder"):
        check_sidecars(snapshot_folder, ["NOTICE"])


def test_a_model_that_is_spread_over_links_travels_and_nothing_from_elsewhere_does(tmp_path, world):
    store, farm = tmp_path / "store", tmp_path / "farm"
    shutil.copytree(world / "base", store)
    farm.mkdir()
    for path in store.iterdir():
        (farm / path.name).symlink_to(path)
    apply(str(farm), add=[vector(world)], output_dir=tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert (store / "config.json").read_bytes() == (tmp_path / "out/config.json").read_bytes()
    elsewhere = tmp_path / "home"
    elsewhere.mkdir()
    (elsewhere / "key").write_text("PRIVATE KEY")
    (farm / "README").symlink_to(elsewhere / "key")
    (farm / "other.safetensors").symlink_to(elsewhere / "key")  # no weights: this makes no place one of the model's
    with pytest.raises(CheckpointError, match="is a link out of its folder"):
        apply(str(farm), add=[vector(world)], output_dir=tmp_path / "no")


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002, 0o077])
def test_outputs_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        with publish_folder(tmp_path / "out") as partial:
            fill(partial, "one")
            (partial / "sub" / "a.txt").chmod(0o600)  # as safetensors leaves what it writes
        with publish_file(tmp_path / "file") as partial:
            partial.touch(0o600)
    finally:
        os.umask(before)
    for path in (tmp_path / "out" / "sub" / "a.txt", tmp_path / "out" / "one.txt", tmp_path / "file"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
