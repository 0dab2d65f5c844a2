"""`taskarith inspect` as a user types it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from commands import invoke, run

import taskarith
from taskarith.errors import CheckpointError


def test_json_has_every_tensor_and_is_alone_on_stdout(vectors, phi):
    vector = vectors / "a.safetensors"
    done = run("inspect", vector, "--json", "--top", 1)
    assert (done.returncode, done.stderr) == (0, "")
    shown, found = json.loads(done.stdout), taskarith.inspect(vector)
    assert (shown["kind"], shown["base"]["name"], shown["norm"]) == ("vector", str(phi), found.norm)
    assert len(shown["tensors"]) == 33
    assert shown["tensors"][0] == {
        "name": found.tensors[0].name,
        "dtype": "F32",
        "shape": list(found.tensors[0].shape),
        "elements": found.tensors[0].elements,
        "nbytes": found.tensors[0].nbytes,
        "norm": found.tensors[0].norm,
        "rms": found.tensors[0].rms,
        "largest": found.tensors[0].largest,
        "zeros": found.tensors[0].zeros,
        "nonfinite": 0,
    }


def test_hostile_names_steer_no_terminal_and_break_no_output(tmp_path):
    header = {
        "__metadata__": {"note": "\x1b[31mred", "\x1b[2J": "x"},
        "\x1b]0;x\x07": {"dtype": "F32", "shape": [1]},
    }
    header["\x1b]0;x\x07"]["data_offsets"] = [0, 4]
    raw = json.dumps(header).encode()
    path = tmp_path / "h.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + np.float32(2).tobytes())
    done = run("inspect", path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "[31mred" in done.stdout
    shown = json.loads(run("inspect", path, "--json").stdout)
    assert shown["tensors"][0]["name"] == "\x1b]0;x\x07"
    assert run("diff", path, path).returncode == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", "there is no model folder absent"),
        ("absent/v.safetensors", "there is no file absent/v.safetensors"),
        ("text.safetensors", "not a sound safetensors file"),
        ("empty.safetensors", "ends inside its header"),
        ("folder", "config.json"),
        ("pickled", "pickled weights"),
    ],
)
def test_what_is_nothing_to_look_at_is_refused(tmp_path, monkeypatch, phi, name, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.safetensors").write_text("once upon a time there was a header that was none")
    (tmp_path / "empty.safetensors").touch()
    shutil.copytree(phi, tmp_path / "folder")
    (tmp_path / "folder" / "config.json").unlink()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").touch()
    for arguments in (("inspect", name), ("diff", name, phi), ("diff", phi, name)):
        done = invoke(*arguments)
        assert done.exit_code == 1
        assert words in done.output
        assert "Traceback" not in done.output
    with pytest.raises(CheckpointError):
        taskarith.inspect(name)


def test_a_wrong_call(vectors):
    vector = vectors / "a.safetensors"
    assert invoke("inspect").exit_code == 2
    assert invoke("inspect", vector, "--top", "-1").exit_code == 2
    assert "largest" not in invoke("inspect", vector, "--top", 0).stdout
