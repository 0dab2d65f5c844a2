"""The linear programme of theorem 3: golden values, laws against brute force, the command, and what is refused."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.errors import DataError, UsageError, VectorError
from taskarith.relations.linear_program import solve
from taskarith.relations.out_of_domain import _alignments, out_of_domain
from taskarith.relations.probe import Answer
from taskarith.vectors.extract import extract


@pytest.mark.parametrize(
    ("gammas", "threshold", "least"),
    [
        ((-0.2, -0.9), 1.0, 1.9 / 0.14),  # -.2 a - .9 b >= 1 and .04 a + .81 b >= 1 meet at a = -s: .14 s = 1.9
        ((0.792, -0.637), 1.0, (1 + 0.637 / 0.405769) / (0.792 + 0.637 * 0.627264 / 0.405769)),
        ((1.0, 1.0), 1.1, 0.55),
        ((1.0, 0.0), 1.1, 1.1),
        ((0.5,), 1.0, 4.0),  # gamma^2 is the harder sum
        ((1.0, -1.0), 1.0, 1.0),  # a - b >= 1 and a + b >= 1
        ((0.6, 0.8), 1.0, 1.0),  # gammas of a unit vector: the squares sum to 1
    ],
)
def test_golden_values(gammas, threshold, least):
    found = solve(gammas, threshold)
    assert found.least == pytest.approx(least, rel=1e-9)
    assert np.abs(found.lambdas).max() == pytest.approx(least, rel=1e-9)
    assert np.dot(found.lambdas, gammas) >= threshold - 1e-9
    assert np.dot(found.lambdas, np.square(gammas)) >= threshold - 1e-9


def test_the_literal_theorem_rejects_the_papers_best_point():
    gammas, best = np.array([0.792, -0.637]), np.array([1.2, -0.6])
    sums = best @ gammas, best @ gammas**2
    assert sums == pytest.approx((1.3326, 0.5092554), rel=1e-6)  # below 1, above the 0.2 of the figure
    assert solve(gammas, 0.2).least < 1.2 < solve(gammas, 1.1).least


@pytest.mark.parametrize("gammas", [(-0.5, -0.5), (-0.5, 0.0), (-1.0,)])
def test_equal_negative_gammas_have_no_solution(gammas):
    found = solve(gammas, 1.0)
    assert (found.lambdas, found.least) == (None, None)
    assert f"not 0 is {min(gammas):g}" in found.reason


def test_other_reasons():
    assert "every gamma is 0" in solve((0.0, 0.0), 1.0).reason
    capped = solve((-0.2, -0.9), 1.0, 2.0)
    assert capped.lambdas is None
    assert capped.least == pytest.approx(13.571428571)
    assert "13.57" in capped.reason
    assert "cap" in capped.reason
    assert solve((1.0, 1.0), 1.0, 0.5).lambdas == pytest.approx((0.5, 0.5))  # just within the cap


def test_beta_is_c_over_the_largest_coefficient():
    assert solve((1.0, 0.0), 1.1).beta == pytest.approx(0.1 / 1.1)
    assert solve((1.0, 0.0), 0.2).beta is None


GAMMAS = st.lists(st.integers(-20, 20).map(lambda n: n / 20), min_size=1, max_size=4)


@given(GAMMAS, st.sampled_from([0.2, 1.0, 1.5]))
def test_nothing_random_is_better(gammas, threshold):
    found = solve(gammas, threshold)
    nonzero = {gamma for gamma in gammas if gamma}
    assert (found.lambdas is None) == (not nonzero or (len(nonzero) == 1 and min(nonzero) < 0))
    if found.lambdas is None:
        return
    sums = np.dot(found.lambdas, gammas), np.dot(found.lambdas, np.square(gammas))
    assert min(sums) >= threshold * (1 - 1e-7)
    assert np.abs(found.lambdas).max() == pytest.approx(found.least)
    # duality: the least max |lambda| is t / min over w of sum |w gamma + (1 - w) gamma^2|, which bends at these w
    shares = np.array([0.0, 1.0, *(gamma / (gamma - 1) for gamma in gammas if gamma < 0)])[:, None]
    sizes = np.abs(shares * np.array(gammas) + (1 - shares) * np.square(gammas)).sum(1)
    assert found.least == pytest.approx(threshold / sizes.min(), rel=1e-6)


@pytest.mark.parametrize("gammas", [(), (1.5,), (float("nan"), 0.1)])
def test_gammas_out_of_range(gammas):
    with pytest.raises(UsageError, match="gamma"):
        solve(gammas, 1.0)


def test_thresholds_out_of_range():
    for threshold, cap in ((0.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0), (1.0, 0.0), (1.0, float("nan"))):
        with pytest.raises(UsageError, match="threshold"):
            solve((0.5, 0.2), threshold, cap)


@pytest.fixture(scope="module")
def room(tmp_path_factory, phi):
    room = tmp_path_factory.mktemp("ood")
    for name, seed in (("a", 1), ("b", 2)):
        tiny.save_model(room / f"tuned-{name}", nudge_of=phi, seed=seed)
        extract(str(phi), str(room / f"tuned-{name}"), room / f"{name}.safetensors")
    (room / "target.txt").write_text(tiny.text(12, 5), encoding="utf-8")
    return room


def run(*arguments):
    return CliRunner().invoke(app, ["ood", *map(str, arguments)])


def test_given_gammas(room, phi):
    a, b = room / "a.safetensors", room / "b.safetensors"
    done = run(a, b, "--gamma", "0.792,-0.637", "--json", "--quiet")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    literal, figure = found["programmes"]
    assert (literal["threshold"], figure["threshold"]) == (1.1, 0.2)
    first, second = literal["lambdas"]
    assert (first, second) == pytest.approx((1.1 * 1.4465, 1.1 * 0.2286), rel=1e-3)
    words = ["taskarith", "apply", str(phi), "--add", f"{a}:{first:.4g}", "--add", f"{b}:{second:.4g}"]
    assert shlex.split(found["command"]) == [*words, "-o", "combined"]


@pytest.mark.parametrize(("gammas", "is_remarked"), [("0.6,-0.8", False), ("0.9,0.9", True), ("1,1", True)])
def test_gammas_that_the_theorem_excludes_are_remarked(room, gammas, is_remarked):
    done = run(room / "a.safetensors", room / "b.safetensors", f"--gamma={gammas}", "--json", "--quiet")
    remarks = [
        one for one in json.loads(done.stdout)["remarks"] if one.startswith("the squares of the gammas add up to")
    ]
    assert bool(remarks) == is_remarked


def test_an_infeasible_target_is_an_answer(room):
    done = run(room / "a.safetensors", room / "b.safetensors", "--gamma", "-0.5,-0.5")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("infeasible: every gamma that is not 0 is -0.5") == 2
    assert "taskarith apply" not in done.stdout
    capped = run(room / "a.safetensors", room / "b.safetensors", "--gamma=-0.2,-0.9", "--cap", 2, "--threshold", 1)
    assert "above the cap" in capped.stdout


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
