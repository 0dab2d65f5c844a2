"""Solutions of the linear programme of theorem 3, and what was measured around them, as rows and lines of text."""

from __future__ import annotations

import math

from taskarith.relations.out_of_domain import OutOfDomain
from taskarith.report.tables import TableRows

__all__ = ["programme_lines", "programme_tables"]

_SHOWN = 5


def programme_tables(found: OutOfDomain) -> list[TableRows]:
    """Return tables of gammas and solutions, and of the best measured points."""
    rows = []
    for index, name in enumerate(found.names):
        gamma = found.gammas[index]
        ends = "" if gamma.low is None or gamma.high is None else f" ({gamma.low:+.3f} to {gamma.high:+.3f})"
        solved = ("-" if one.lambdas is None else f"{one.lambdas[index]:+.4g}" for one in found.programmes)
        rows.append((name, f"{gamma.value:+.3f}{ends}", *solved))
    titles = (f"lambda for t = {one.threshold:g}" for one in found.programmes)
    tables = [TableRows("coefficients for the target", ("vector", "gamma", *titles), tuple(rows))]
    if found.points:
        tables.append(_points(found))
    return tables


def programme_lines(found: OutOfDomain) -> list[str]:
    """Return what each programme says, and the command."""
    lines = []
    for number, one in enumerate(found.programmes):
        if one.lambdas is None:
            lines.append(f"t = {one.threshold:g}: infeasible: {one.reason}")
        else:
            beta = "" if one.beta is None else f"; theorem 3 holds if beta is at most {one.beta:.3g}"
            lines.append(f"t = {one.threshold:g}: the least possible max |lambda| is {one.least:.4g}{beta}")
        if (agreement := found.agreement(number)) is not None:
            lines[-1] += f"; the region agrees with the loss at {agreement:.0%} of {len(found.points)} points"
    if found.command:
        lines.append(found.command)
    return lines


def _points(found: OutOfDomain) -> TableRows:
    base = math.nan if found.base_loss is None else found.base_loss
    rows = [
        (
            " ".join(f"{one:+.3g}" for one in point.lambdas),
            f"{point.loss:.3f} ({point.loss - base:+.3f})",
            *("inside" if inside else "outside" for inside in point.predicted),
        )
        for point in sorted(found.points, key=lambda point: point.loss)[:_SHOWN]
    ]
    title = f"loss on the target, best {len(rows)} of {len(found.points)} points (change against the base, {base:.3f})"
    regions = (f"region for t = {one.threshold:g}" for one in found.programmes)
    return TableRows(title, ("lambda", "loss", *regions), tuple(rows))
