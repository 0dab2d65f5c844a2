"""`taskarith diff` as a user types it: its words, its tables, and exit codes as a shell script needs them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from commands import invoke, run
from safetensors.torch import load_file


def test_a_finetune_against_its_base(phi, phi_tuned):
    before, after = (load_file(folder / "model.safetensors") for folder in (phi, phi_tuned))
    done = run("diff", phi, phi_tuned, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    shown = json.loads(done.stdout)
    assert not shown["is_equal"]
    assert [tensor["name"] for tensor in shown["tensors"]] == list(shown_order(phi))
    for tensor in shown["tensors"]:
        a, b = (side[tensor["name"]].double().numpy() for side in (before, after))
        assert tensor["differing"] == (a != b).sum()
        assert tensor["largest"] == np.abs(a - b).max()
        assert tensor["relative"] == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-12)
        assert tensor["is_equal"] is False
    whole = [np.concatenate([t.double().numpy().ravel() for _, t in sorted(s.items())]) for s in (before, after)]
    distance = np.linalg.norm(whole[0] - whole[1]) / np.linalg.norm(whole[0])
    assert shown["relative"] == pytest.approx(distance, rel=1e-12)
    assert shown["largest"] == np.abs(whole[0] - whole[1]).max()
    text = invoke("diff", phi, phi_tuned, "--top", 4).stdout
    assert text.startswith("33 of 33 tensors and ")
    rows = text.partition("largest differences")[2].splitlines()[2:]
    most = sorted(shown["tensors"], key=lambda tensor: -tensor["relative"])[:4]
    assert [row.split()[0] for row in rows] == [tensor["name"] for tensor in most]


def shown_order(folder):
    """Return the names of a one-file model in the order of their bytes."""
    raw = (folder / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    header.pop("__metadata__", None)
    return sorted(header, key=lambda name: header[name]["data_offsets"])


def test_a_wrong_call_and_a_missing_side(phi, tmp_path):
    assert invoke("diff", phi).exit_code == 2
    assert invoke("diff", phi, phi, "--top", "-1").exit_code == 2
    done = invoke("diff", phi, tmp_path / "gone.safetensors")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "there is no file" in done.stderr


def test_no_torch_is_loaded(phi):
    code = "import sys, taskarith; taskarith.diff(*sys.argv[1:]), taskarith.inspect(sys.argv[1]); "
    code += "assert not {'torch', 'numba', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(phi), str(phi)], check=True)
