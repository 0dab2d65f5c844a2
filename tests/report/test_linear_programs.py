"""Solutions of the linear programme as people read them."""

from __future__ import annotations

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.relations.linear_program import solve
from taskarith.relations.out_of_domain import OutOfDomain, Point
from taskarith.report.linear_programs import programme_lines, programme_tables


def result(gammas, **more):
    found = {"command": None, "base_loss": None, "points": (), "remarks": ()} | more
    estimates = tuple(Estimate(gamma, None, None, 1) for gamma in gammas)
    names = tuple("ab"[: len(gammas)])
    return OutOfDomain(names, estimates, (solve(gammas, 1.5), solve(gammas, 0.2)), **found)


def test_coefficients_and_their_least_magnitude_are_shown():
    found = result((0.5, 0.5), command="taskarith apply base")
    (table,) = programme_tables(found)
    assert table.columns == ("vector", "gamma", "lambda for t = 1.5", "lambda for t = 0.2")
    assert table.rows[0] == ("a", "+0.500", "+3", "+0.4")
    lines = programme_lines(found)
    assert lines[0] == "t = 1.5: the smallest possible max |lambda| is 3; theorem 3 holds if beta is at most 0.167"
    assert lines[1] == "t = 0.2: the smallest possible max |lambda| is 0.4"
    assert lines[2] == "taskarith apply base"


def test_what_has_no_solution_says_why():
    found = result((-0.5, -0.5))
    assert programme_tables(found)[0].rows[0] == ("a", "-0.500", "-", "-")
    assert all(": infeasible: " in line for line in programme_lines(found))


def test_the_best_points_are_shown_beside_the_regions():
    points = tuple(Point((float(number), 0.0), 5.0 - number, (number > 2, True)) for number in range(6))
    _, table = programme_tables(result((0.5, 0.5), base_loss=5.0, points=points))
    assert "best 5 of 6 points (change against the base, 5.000)" in table.title
    assert table.rows[0] == ("+5 +0", "0.000 (-5.000)", "inside", "inside")
    assert table.rows[-1][2:] == ("outside", "inside")
