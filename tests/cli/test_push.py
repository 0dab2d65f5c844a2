"""Tests of `taskarith push` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from fake_hub import fake_hub

from taskarith.edit.apply import apply


def test_the_command_as_a_user_types_it(tmp_path, phi, phi_tuned):
    edited = apply(str(phi), add=[f"{phi_tuned}@@{phi}:0.5"], output_dir=tmp_path / "edited").path
    with fake_hub() as hub:
        _push(hub, edited)


def _push(hub, edited):
    environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_ann", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "taskarith", "push", str(edited), "ann/edited"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{hub.url}/ann/edited\n"
    assert "to a new repository" in done.stderr
    assert "hf_ann" not in done.stdout + done.stderr
    environment |= {"HF_TOKEN": "x"}
    refused = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "does not accept the token" in refused.stderr
    assert "Traceback" not in refused.stderr
