"""Relations of task vectors as tables and sentences."""

from __future__ import annotations

import statistics

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.relations.correlations import DECISIVE
from taskarith.relations.geometry import TOP_SHARES, Group
from taskarith.relations.relate import Relation
from taskarith.report.tables import TableRows

__all__ = ["estimate_cell", "number_cell", "relation_tables", "verdict_lines"]


def relation_tables(relation: Relation) -> list[TableRows]:
    """Return tables of norms, of every measure for every pair, and of the forecast."""
    tables = [_norms(relation), _weights(relation)]
    if relation.outputs is not None:
        tables += [_outputs(relation), _changes(relation), _removals(relation)]
    return tables


def verdict_lines(relation: Relation) -> list[str]:
    """Return the verdict on each pair, and the assumptions it is based on."""
    lines, assumptions = [], {}
    for verdict in relation.verdicts:
        lines.append(f"{verdict.first} and {verdict.second}: {verdict.regime}, alpha {estimate_cell(verdict.alpha)}")
        lines += [f"  because {verdict.reason}"] if verdict.reason else []
        lines += [f"  addition: {verdict.addition.text}", f"  negation: {verdict.negation.text}"]
        assumptions |= dict.fromkeys((*verdict.addition.assumptions, *verdict.negation.assumptions))
    if assumptions:
        lines.append(f"This assumes: {'; '.join(assumptions)}.")
    if relation.outputs is None:
        lines.append("For a verdict, give a test set for each vector: --data NAME=FILE, in the order of the vectors.")
    return lines


def _norms(relation: Relation) -> TableRows:
    weights = relation.weights
    groups = [("all", weights.group()), ("without embeddings and head", weights.without_embeddings())]
    groups += [(kind, weights.of_kind(kind)) for kind in weights.kinds]
    rows = [(name, *(f"{norm:.4g}" for norm in group.norms)) for name, group in groups]
    return TableRows("norms", ("", *relation.names), tuple(rows))


def _weights(relation: Relation) -> TableRows:
    weights, pairs = relation.weights, relation.pairs
    rows = [("cosine", *_cells(relation, weights.group(), "cosine"))]
    rows.append(("  without embeddings and head", *_cells(relation, weights.without_embeddings(), "cosine")))
    rows += [(f"  {kind}", *_cells(relation, weights.of_kind(kind), "cosine")) for kind in weights.kinds]
    if layers := weights.layers:
        span = [[weights.of_layer(layer).cosine(*pair) for layer in layers] for pair in pairs]
        rows.append(("  layers, lowest to highest", *(_range(values) for values in span)))
    rows.append(("sign agreement", *_cells(relation, weights.group(), "sign_agreement")))
    rows.append(("energy cancelled in the sum", *_cells(relation, weights.group(), "interference")))
    rows += [
        (f"overlap of the largest {share:.0%}", *(number_cell(float(weights.overlaps[share][pair])) for pair in pairs))
        for share in TOP_SHARES
    ]
    if relation.subspaces is not None:
        for title, key in (("outputs", "outputs"), ("inputs", "inputs")):
            rows.append((f"leading subspaces: mean cos2, {title}", *(_overlap(relation, pair, key) for pair in pairs)))
        rows.append(("leading subspaces: shared energy", *(_shared(relation, pair) for pair in pairs)))
    return TableRows("as weights", ("", *_titles(relation)), tuple(rows))


def _outputs(relation: Relation) -> TableRows:
    assert relation.outputs is not None  # noqa: S101
    rows = [
        (f"{measure}{' (decides)' * (measure == DECISIVE)}", *(estimate_cell(values[pair]) for pair in relation.pairs))
        for measure, values in relation.outputs.correlations.items()
    ]
    inputs = "/".join(str(count) for count in relation.outputs.inputs)
    return TableRows(f"as outputs, on {inputs} inputs", ("", *_titles(relation)), tuple(rows))


def _changes(relation: Relation) -> TableRows:
    assert relation.outputs is not None  # noqa: S101
    known = {True: "trained on", False: "not what it was trained on", None: "not recorded"}
    rows = [
        (f"vector of {name}", *map(estimate_cell, row))
        for name, row in zip(relation.names, relation.outputs.changes, strict=True)
    ]
    rows.append(("test set of its own vector", *(known[learned] for learned in relation.outputs.learned)))
    return TableRows("change of the loss (nats) on each test set", ("", *relation.names), tuple(rows))


def _removals(relation: Relation) -> TableRows:
    assert relation.outputs is not None  # noqa: S101
    removals = relation.outputs.removals
    alphas = list(dict.fromkeys(removal.alpha for removal in removals))
    rows = [
        (
            task,
            f"{next(removal.known for removal in removals if removal.task == task):g}",
            *(estimate_cell(removal.rise) for removal in removals if removal.task == task),
        )
        for task in dict.fromkeys(removal.task for removal in removals)
    ]
    title = f"expected rise of the loss (nats) when alpha times {relation.names[0]} is subtracted"
    return TableRows(title, ("task", "stand-in", *(f"alpha {alpha:g}" for alpha in alphas)), tuple(rows))


def _titles(relation: Relation) -> list[str]:
    return [f"{relation.names[i]} - {relation.names[j]}" for i, j in relation.pairs]


def _cells(relation: Relation, group: Group, measure: str) -> list[str]:
    return [number_cell(getattr(group, measure)(*pair)) for pair in relation.pairs]


def number_cell(value: float | None) -> str:
    """Return a measure of a pair as a cell."""
    return "-" if value is None or value != value else f"{value:+.3f}"  # noqa: PLR0124  (NaN)


def _range(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):+.3f} to {max(known):+.3f}" if known else "-"


def _overlap(relation: Relation, pair: tuple[int, int], side: str) -> str:
    cosines = [getattr(subspace, side) for subspace in relation.subspaces or () if subspace.pair == pair]
    return number_cell(statistics.fmean(statistics.fmean(c * c for c in row) for row in cosines) if cosines else None)


def _shared(relation: Relation, pair: tuple[int, int]) -> str:
    shares = [subspace.shared for subspace in relation.subspaces or () if subspace.pair == pair]
    return number_cell(statistics.fmean(shares) if shares else None)


def estimate_cell(value: Estimate | None) -> str:
    """Return a number with its interval as a cell."""
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{value.value:+.3f}"
    return f"{value.value:+.3f} ({value.low:+.3f} to {value.high:+.3f})"
