"""The way back: every file of the input as before, from the output and its patch."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
import torch
from damage import files, flip
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import UNDO_NAME
from taskarith.checkpoints.header import read_header
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.undo import undo
from taskarith.errors import CheckpointError, MismatchError, OutputError


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("dtype", [None, "float32", "float16"])
@pytest.mark.parametrize("size", [None, 20_000])
def test_every_file_is_as_before(tmp_path, kind, dtype, size):
    base = tiny.save_model(tmp_path / "base", kind, dtype=torch.bfloat16, max_shard_size="30KB")
    (base / "taskarith.json").write_text('{"kind": "finetune"}')
    (base / "LICENSE").write_text("as is")
    tuned = tiny.save_model(tmp_path / "tuned", kind, nudge_of=base, seed=1)
    before = files(base)
    done = apply(
        str(base),
        negate=[f"{tuned}:0.7"],
        dtype=dtype,
        max_shard_size=size,
        output_dir=tmp_path / "out",
        keep_undo=True,
    )
    assert done.undo_bytes == (tmp_path / "out" / UNDO_NAME).stat().st_size
    shutil.rmtree(base)
    shutil.rmtree(tuned)
    undo(tmp_path / "out", tmp_path / "back")
    assert files(tmp_path / "back") == before


def test_values_of_every_kind_come_back(tmp_path):
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    for folder, shift in ((base, 0.0), (tuned, 0.25)):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        generator = torch.Generator().manual_seed(0)
        values = {
            "half": torch.randn(3, 5, generator=generator).half() + shift,
            "double": torch.randn(7, generator=generator, dtype=torch.float64) + shift,
            "zeros": torch.tensor([-0.0, 0.0, 1e-40, -1e-40]) + 0 * shift,
            "scalar": torch.tensor(2.0 + shift),
            "empty": torch.empty(0, 4),
            "integers": torch.arange(9),
        }
        save_file(values, folder / "model.safetensors")
    before = files(base)
    apply(str(base), add=[f"{tuned}@@{base}"], dtype="bfloat16", output_dir=tmp_path / "out", keep_undo=True)
    undo(tmp_path / "out", tmp_path / "back")
    assert files(tmp_path / "back") == before


def test_the_patch_is_small_and_stays_with_its_edit(tmp_path, phi, phi_tuned):
    apply(str(phi), add=[f"{phi_tuned}:0.01"], dtype="bfloat16", output_dir=tmp_path / "one", keep_undo=True)
    apply(str(phi), add=[f"{phi_tuned}:0"], output_dir=tmp_path / "none", keep_undo=True)
    assert (tmp_path / "none" / UNDO_NAME).stat().st_size < 30_000
    two = apply(str(tmp_path / "one"), add=[f"{phi_tuned}:0.01"], output_dir=tmp_path / "two")
    assert not (tmp_path / "two" / UNDO_NAME).exists()
    assert two.undo_bytes == 0
    assert not any("not carried" in remark for remark in two.remarks)


def test_commands(tmp_path, phi, phi_tuned):
    run = CliRunner()
    edited, back = str(tmp_path / "edited"), str(tmp_path / "back")
    done = run.invoke(app, ["apply", str(phi), "--negate", str(phi_tuned), "-o", edited, "--keep-undo"])
    assert done.exit_code == 0
    assert "undo patch:" in done.stderr
    done = run.invoke(app, ["undo", edited, "-o", back, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["tensors"] > 0
    assert files(tmp_path / "back") == files(phi)
    again = run.invoke(app, ["undo", edited, "-o", back])
    assert again.exit_code == 1
    assert "already exists" in again.stderr


def test_a_folder_that_changed_after_the_edit_is_not_undone(tmp_path, phi, phi_tuned):
    apply(str(phi), add=[str(phi_tuned)], output_dir=tmp_path / "out", keep_undo=True)
    flip(tmp_path / "out/model.safetensors", "model.layers.0.mlp.fc1.weight")
    with pytest.raises(MismatchError, match="fc1"):
        undo(tmp_path / "out", tmp_path / "back")
    assert not (tmp_path / "back").exists()


CHANGES = {
    "tokenizer changed": lambda out: (out / "tokenizer.json").write_text("changed"),
    "configuration changed": lambda out: (out / "config.json").write_text((out / "config.json").read_text() + " "),
    "licence removed": lambda out: (out / "LICENSE").unlink(),
    "file added": lambda out: (out / "new.py").write_text("1"),
    "nested file changed": lambda out: (out / "original/params.json").write_text("{}"),
}


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edited")
    base = tiny.save_model(folder / "base", dtype=torch.bfloat16)
    (base / "original").mkdir()
    (base / "original/params.json").write_text('{"dim": 4}')
    for name in (".gitattributes", "LICENSE", "pytorch_model.bin", ".env"):
        (base / name).write_text(name)
    tuned = tiny.save_model(folder / "tuned", nudge_of=base, seed=1)
    apply(str(base), add=[str(tuned)], output_dir=folder / "out", keep_undo=True)
    return folder


@pytest.mark.parametrize("change", [*CHANGES, None])
def test_every_file_is_restored_or_named_whatever_was_done_to_the_folder(edited, tmp_path, change):
    out = shutil.copytree(edited / "out", tmp_path / "out")
    if change is not None:
        CHANGES[change](out)
    done = CliRunner().invoke(app, ["undo", str(out), "-o", str(tmp_path / "back")])
    assert done.exit_code == 0, done.output
    before = files(edited / "base")
    assert files(tmp_path / "back") == {key: before[key] for key in before.keys() - {"pytorch_model.bin", ".env"}}
    assert "not restored, since the edit did not carry them: .env, pytorch_model.bin" in done.stderr
    assert ("new.py" in done.stderr) == (change == "file added")


def test_undo_again_leaves_what_is_restored_and_keeps_all_else(edited, tmp_path, monkeypatch):
    monkeypatch.setattr("taskarith.edit.undo_write._LARGE", 2000)  # some are in the patch, others are taken
    tuned = f"{edited / 'tuned'}@@{edited / 'base'}"
    for model, out in ((edited / "base", "once"), (edited / "out", "twice")):
        apply(str(model), add=[tuned], output_dir=tmp_path / out, keep_undo=True)
    back = tmp_path / "back"
    for place, record in ((tmp_path / "once", False), (tmp_path / "twice", True)):
        undo(place, back)
        before = files(back) | {"modified": back.stat().st_mtime_ns}
        with pytest.raises(OutputError, match="already exists"):
            undo(place, back)
        assert "is that already" in undo(place, back, overwrite=True).remarks[-1]
        assert files(back) | {"modified": back.stat().st_mtime_ns} == before
        shutil.copytree(back, tmp_path / "copy")
        for name in (one for one in before if one != "modified" and not record):
            for change in (lambda data: data[:-1] + b"?", lambda data: data + b"?", lambda data: data[:-1]):
                (back / name).write_bytes(change(before[name]))
                kept = files(back)
                with pytest.raises(OutputError, match="is kept"):
                    undo(place, back, overwrite=True)
                assert files(back) == kept
                (back / name).write_bytes(before[name])
        (back / "notes.txt").touch()
        with pytest.raises(OutputError, match=r"is kept: .*notes\.txt" if record else "is kept"):
            undo(place, back, overwrite=True)
        shutil.rmtree(back)
        back.symlink_to(tmp_path / "copy")
        with pytest.raises(OutputError, match="is not a folder"):
            undo(place, back, overwrite=True)
        back.unlink()
        shutil.rmtree(tmp_path / "copy")


def test_a_large_file_is_taken_from_the_folder_if_it_is_what_it_was(tmp_path, phi, phi_tuned, monkeypatch):
    monkeypatch.setattr("taskarith.edit.undo_write._LARGE", 1000)
    out = apply(str(phi), add=[str(phi_tuned)], output_dir=tmp_path / "out", keep_undo=True).path
    undo(out, tmp_path / "back")
    assert files(tmp_path / "back") == files(phi)
    (out / "tokenizer.json").write_text("changed")
    with pytest.raises(MismatchError, match=r"tokenizer\.json is not what it was"):
        undo(out, tmp_path / "again")
    (out / "tokenizer.json").unlink()
    with pytest.raises(MismatchError, match=r"tokenizer\.json is gone"):
        undo(out, tmp_path / "again")


def test_a_patch_of_an_earlier_release(tmp_path, phi, phi_tuned):
    out = apply(str(phi), add=[str(phi_tuned)], output_dir=tmp_path / "out", keep_undo=True).path
    with safe_open(out / UNDO_NAME, "pt") as file:
        held = {"file:config.json", "file:model.safetensors"}
        kept = {key: file.get_tensor(key) for key in file.keys() if not key.startswith("file:") or key in held}  # noqa: SIM118
    save_file(kept, out / UNDO_NAME, metadata={"format": "taskarith-undo"})
    record = json.loads((out / "taskarith.json").read_text())
    del record["files"], record["digest"]
    (out / "taskarith.json").write_text(json.dumps(record))
    found = undo(out, tmp_path / "back")
    assert files(tmp_path / "back") == files(phi)
    assert "an earlier release wrote the patch" in found.remarks[0]
    assert "tokenizer.json" in found.remarks[0]


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\b", "", ".", "sub/model.safetensors"])
def test_names_that_point_outside(edited, tmp_path, name):
    out = shutil.copytree(edited / "out", tmp_path / "out")
    with safe_open(out / UNDO_NAME, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        save_file(tensors | {f"file:{name}": torch.zeros(1, dtype=torch.uint8)}, out / UNDO_NAME, file.metadata())
    with pytest.raises(CheckpointError, match="points outside"):
        undo(out, tmp_path / "back")


def test_a_patch_that_changed_is_not_used(edited, tmp_path):
    out = shutil.copytree(edited / "out", tmp_path / "out")
    entry = next(one for one in read_header(out / UNDO_NAME).tensors if one.name == "file:tokenizer.json")
    data = bytearray((out / UNDO_NAME).read_bytes())
    data[entry.offset + entry.nbytes // 2] ^= 1
    (out / UNDO_NAME).write_bytes(data)
    with pytest.raises(CheckpointError, match="is not the patch that the edit wrote"):
        undo(out, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_without_a_patch_or_with_a_broken_one(tmp_path, phi, phi_tuned):
    apply(str(phi), add=[str(phi_tuned)], output_dir=tmp_path / "out")
    for folder in (tmp_path / "out", phi, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="no way back"):
            undo(folder, tmp_path / "back")
    apply(str(phi), add=[str(phi_tuned)], output_dir=tmp_path / "out", keep_undo=True, overwrite=True)
    patch = tmp_path / "out" / UNDO_NAME
    data = bytearray(patch.read_bytes())
    data[-40:] = bytes(40)
    patch.write_bytes(data)
    with pytest.raises((CheckpointError, MismatchError)):
        undo(tmp_path / "out", tmp_path / "back")
    save_file({"file:../evil": torch.zeros(1, dtype=torch.uint8)}, patch, metadata={"format": "taskarith-undo"})
    with pytest.raises(CheckpointError):
        undo(tmp_path / "out", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    "change",
    ["weights", "", ', "tensors": 3', ', "tensors": {"model.layers.0.mlp.fc1.weight": 1}', ', "tensors": []'],
)
def test_a_folder_whose_parts_are_not_of_one_edit(tmp_path, phi, phi_tuned, change):
    out = tmp_path / "out"
    apply(str(phi), add=[str(phi_tuned)], output_dir=out, keep_undo=True)
    if change == "weights":
        save_file({"other": torch.zeros(2)}, out / "model.safetensors")
    else:
        (out / "taskarith.json").write_text(f'{{"kind": "edit"{change}}}')
    with pytest.raises(MismatchError, match="are not in its weights"):
        undo(out, tmp_path / "back")
    assert not (tmp_path / "back").exists()
