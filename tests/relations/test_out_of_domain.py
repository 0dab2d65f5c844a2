"""The linear programme of theorem 3: golden values, laws against brute force, the command, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
from extracting import save_two_vectors
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.errors import DataError, UsageError, VectorError
from taskarith.relations.out_of_domain import _alignments, out_of_domain
from taskarith.relations.probe import Answer


@pytest.fixture(scope="module")
def room(tmp_path_factory, phi):
    room = tmp_path_factory.mktemp("ood")
    save_two_vectors(room, phi)
    (room / "target.txt").write_text(tiny.text(12, 5), encoding="utf-8")
    return room


def run(*arguments):
    return CliRunner().invoke(app, ["ood", *map(str, arguments)])


@pytest.mark.parametrize(("gammas", "is_remarked"), [("0.6,-0.8", False), ("0.9,0.9", True), ("1,1", True)])
def test_gammas_that_the_theorem_excludes_are_remarked(room, gammas, is_remarked):
    done = run(room / "a.safetensors", room / "b.safetensors", f"--gamma={gammas}", "--json", "--quiet")
    remarks = [
        one for one in json.loads(done.stdout)["remarks"] if one.startswith("the squares of the gammas add up to")
    ]
    assert bool(remarks) == is_remarked


def test_measured_gammas(room, phi):
    a, b, target = (str(room / name) for name in ("a.safetensors", "b.safetensors", "target.txt"))
    alone = out_of_domain([a, b, f"{a}:2"], data={"t": target}, block_size=16, inputs=4)
    assert all(-1 < gamma.low <= gamma.value <= gamma.high < 1 for gamma in alone.gammas)
    assert len(alone.points) >= 6  # each vector alone, with both signs
    own = out_of_domain([a, b], data={"t": target, "x": target, "y": target}, block_size=16, inputs=4)
    assert own.names == ("x", "y")
    assert [gamma.value for gamma in own.gammas] == pytest.approx([1, 1])  # the target is each one's own task
    grid = [point for point in own.points if point.lambdas == (0.0, 0.0)]
    assert [point.loss for point in grid] == pytest.approx([own.base_loss], rel=1e-6)
    assert grid[0].predicted == (False, False)
    assert len(own.points) == 27  # 5 x 5, and both solutions
    assert own.points[-1].predicted[-1]
    assert own.best.loss == min(point.loss for point in own.points)
    hits = [point.predicted[1] == (point.loss < own.base_loss) for point in own.points]
    assert own.agreement(1) == sum(hits) / 27


def test_gamma_is_one_where_the_outputs_move_as_the_truth_asks():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(3, 7)).astype(np.float32), np.array([0, 4, 6])
    asked = np.eye(7)[targets] - np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    base = Answer(np.zeros(3), 0.0, logits, logits, targets)
    for moved, wanted in ((asked + 5, 1), (-asked, -1), (np.zeros((3, 7)), 0)):
        model = Answer(np.zeros(3), 0.0, logits, (logits + 0.1 * moved).astype(np.float32), targets)
        assert _alignments([base], [model]) == pytest.approx([wanted], abs=1e-5)


def test_the_command_measures(room):
    done = run(room / "a.safetensors", "--data", f"t={room / 'target.txt'}", "--block-size", 16, "--inputs", 3)
    assert done.exit_code == 0, done.stderr
    assert "coefficients for the target" in done.stdout
    assert "loss on the target, best" in done.stdout
    assert "gamma is the mean cosine" in done.stderr


def test_what_is_refused(room):
    a = str(room / "a.safetensors")
    for wrong in ({}, {"gammas": [0.1], "data": {"t": "x"}}, {"gammas": [0.1, 0.2]}, {"gammas": [0.1], "margin": 1.0}):
        with pytest.raises(UsageError):
            out_of_domain([a], **wrong)
    with pytest.raises(UsageError, match="3 test sets"):
        out_of_domain([a], data={"t": "x", "u": "y", "v": "z"})
    with pytest.raises(DataError, match=r"missing\.txt"):
        out_of_domain([a], data={"t": str(room / "missing.txt")})
    with pytest.raises(VectorError):
        out_of_domain([str(room / "none.safetensors")], gammas=[0.5])
    done = run(a, "--gamma", "many")
    assert (done.exit_code, "not a list of numbers" in done.stderr) == (2, True)
