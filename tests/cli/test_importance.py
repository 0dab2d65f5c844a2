"""`taskarith importance` as a user types it."""

from __future__ import annotations

import json

import oracle
import tiny
import torch
from asking import CHAT, CHAT_OPTIONS, write_questions
from safetensors.torch import load_file
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.merging.methods import parse_method
from taskarith.relations.importance import importance


def test_the_command_and_what_apply_makes_of_it(tmp_path, phi, forget, book):
    tuned = str(tiny.save_model(tmp_path / "tuned", nudge_of=phi, seed=5))
    call = [
        "importance",
        str(phi),
        "--forget",
        str(forget),
        "--retain",
        str(book),
        "-o",
        str(tmp_path / "w.safetensors"),
    ]
    done = CliRunner().invoke(app, [*call, "--json", "--quiet"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["forget_samples"] >= 1
    how, weights = parse_method("perta"), load_file(tmp_path / "w.safetensors")
    options = {"weights": str(tmp_path / "w.safetensors"), "method": how, "dtype": "float64"}
    apply(str(phi), negate=[tuned], alpha=0.5, output_dir=tmp_path / "out", **options)
    got, base, fine = (load_file(path / "model.safetensors") for path in (tmp_path / "out", phi, type(phi)(tuned)))
    for name, values in base.items():
        delta = (fine[name].double() - values.double()) * -0.5 * weights[name].double()
        assert torch.equal(got[name], values.double() + delta)


def test_questions_are_asked_by_the_chat_template_if_that_is_wanted(tmp_path, phi, book):
    path = write_questions(tmp_path)["questions"]
    call = ["importance", str(phi), "--forget", path, "--retain", str(book), "-o", str(tmp_path / "w.safetensors")]
    done = CliRunner().invoke(app, [*call, *CHAT_OPTIONS])
    assert done.exit_code == 0, done.output
    expected = importance(str(phi), path, str(book), tmp_path / "again.safetensors", **CHAT).path
    assert oracle.differing(load_file(tmp_path / "w.safetensors"), load_file(expected)) == []
