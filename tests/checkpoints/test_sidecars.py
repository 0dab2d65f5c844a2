"""Files that travel with a model: copied to the same places, and none that lies elsewhere."""

from __future__ import annotations

import os
import shutil

import pytest
from outputs import data, files, vector

from taskarith.checkpoints.sidecars import check_sidecars, copy_sidecars
from taskarith.edit.apply import apply
from taskarith.errors import CheckpointError
from taskarith.training.finetune import finetune


def test_files_are_copied_to_the_same_places(tmp_path):
    (tmp_path / "m/extra").mkdir(parents=True)
    (tmp_path / "m/extra/a.txt").write_text("a")
    (tmp_path / "m/link.txt").symlink_to("extra/a.txt")
    copy_sidecars(tmp_path / "m", ["extra/a.txt", "link.txt"], tmp_path / "out")
    assert (tmp_path / "out/extra/a.txt").read_text() == "a"
    assert not (tmp_path / "out/link.txt").is_symlink()


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
