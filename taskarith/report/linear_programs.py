"""Solutions of the linear program of theorem 3, and losses measured around them, as tables and sentences."""

from __future__ import annotations

import math

from taskarith.relations.out_of_domain import OutOfDomain
from taskarith.report.tables import TableRows

__all__ = ["programme_lines", "programme_tables"]

_SHOWN = 5


def programme_tables(result: OutOfDomain) -> list[TableRows]:
    """Return tables of gammas and solutions, and of the best measured points."""
    rows = []
    for index, name in enumerate(result.names):
        gamma = result.gammas[index]
        ends = "" if gamma.low is None or gamma.high is None else f" ({gamma.low:+.3f} to {gamma.high:+.3f})"
        solved = ("-" if program.lambdas is None else f"{program.lambdas[index]:+.4g}" for program in result.programmes)
        rows.append((name, f"{gamma.value:+.3f}{ends}", *solved))
    titles = (f"lambda for t = {program.threshold:g}" for program in result.programmes)
    tables = [TableRows("coefficients for the target", ("vector", "gamma", *titles), tuple(rows))]
    if result.points:
        tables.append(_points(result))
    return tables


def programme_lines(result: OutOfDomain) -> list[str]:
    """Return a sentence on each linear program, then the command to run."""
    lines = []
    for number, program in enumerate(result.programmes):
        if program.lambdas is None:
            lines.append(f"t = {program.threshold:g}: infeasible: {program.reason}")
        else:
            beta = "" if program.beta is None else f"; theorem 3 holds if beta is at most {program.beta:.3g}"
            lines.append(f"t = {program.threshold:g}: the smallest possible max |lambda| is {program.least:.4g}{beta}")
        if (agreement := result.agreement(number)) is not None:
            lines[-1] += f"; the region agrees with the loss at {agreement:.0%} of {len(result.points)} points"
    if result.command:
        lines.append(result.command)
    return lines


def _points(result: OutOfDomain) -> TableRows:
    base = math.nan if result.base_loss is None else result.base_loss
    rows = [
        (
            " ".join(f"{value:+.3g}" for value in point.lambdas),
            f"{point.loss:.3f} ({point.loss - base:+.3f})",
            *("inside" if inside else "outside" for inside in point.predicted),
        )
        for point in sorted(result.points, key=lambda point: point.loss)[:_SHOWN]
    ]
    title = f"loss on the target, best {len(rows)} of {len(result.points)} points (change against the base, {base:.3f})"
    regions = (f"region for t = {program.threshold:g}" for program in result.programmes)
    return TableRows(title, ("lambda", "loss", *regions), tuple(rows))
