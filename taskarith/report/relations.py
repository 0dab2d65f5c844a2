"""How task vectors relate, as rows and lines of text."""

from __future__ import annotations

import statistics

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.relations.correlations import DECISIVE
from taskarith.relations.geometry import TOP_SHARES, Group
from taskarith.relations.relate import Relation
from taskarith.report.tables import TableRows

__all__ = ["relation_tables", "verdict_lines"]


def relation_tables(found: Relation) -> list[TableRows]:
    """Return tables of norms, of every measure by pair, and of the forecast."""
    tables = [_norms(found), _weights(found)]
    if found.outputs is not None:
        tables += [_outputs(found), _changes(found), _removals(found)]
    return tables


def verdict_lines(found: Relation) -> list[str]:
    """Return what follows for each pair, and what that rests on."""
    lines, rests = [], {}
    for verdict in found.verdicts:
        lines.append(f"{verdict.first} and {verdict.second}: {verdict.regime}, alpha {_estimate(verdict.alpha)}")
        lines += [f"  because {verdict.reason}"] if verdict.reason else []
        lines += [f"  addition: {verdict.addition.text}", f"  negation: {verdict.negation.text}"]
        rests |= dict.fromkeys((*verdict.addition.assumptions, *verdict.negation.assumptions))
    if rests:
        lines.append(f"This rests on: {'; '.join(rests)}.")
    if found.outputs is None:
        lines.append("For a verdict give each vector a test set: --data NAME=FILE, in the order of the vectors.")
    return lines


def _norms(found: Relation) -> TableRows:
    weights = found.weights
    groups = [("all", weights.group()), ("without embeddings and head", weights.without_embeddings())]
    groups += [(kind, weights.of_kind(kind)) for kind in weights.kinds]
    rows = [(name, *(f"{norm:.4g}" for norm in group.norms)) for name, group in groups]
    return TableRows("norms", ("", *found.names), tuple(rows))


def _weights(found: Relation) -> TableRows:
    weights, pairs = found.weights, found.pairs
    rows = [("cosine", *_cells(found, weights.group(), "cosine"))]
    rows.append(("  without embeddings and head", *_cells(found, weights.without_embeddings(), "cosine")))
    rows += [(f"  {kind}", *_cells(found, weights.of_kind(kind), "cosine")) for kind in weights.kinds]
    if layers := weights.layers:
        span = [[weights.of_layer(layer).cosine(*pair) for layer in layers] for pair in pairs]
        rows.append(("  layers, from least to largest", *(_range(values) for values in span)))
    rows.append(("sign agreement", *_cells(found, weights.group(), "sign_agreement")))
    rows.append(("energy that cancels in the sum", *_cells(found, weights.group(), "interference")))
    rows += [
        (f"overlap of the largest {share:.0%}", *(_number(float(weights.overlaps[share][pair])) for pair in pairs))
        for share in TOP_SHARES
    ]
    if found.subspaces is not None:
        for title, key in (("outputs", "outputs"), ("inputs", "inputs")):
            rows.append((f"leading subspaces: mean cos2, {title}", *(_overlap(found, pair, key) for pair in pairs)))
        rows.append(("leading subspaces: shared energy", *(_shared(found, pair) for pair in pairs)))
    return TableRows("as weights", ("", *_titles(found)), tuple(rows))


def _outputs(found: Relation) -> TableRows:
    assert found.outputs is not None  # noqa: S101
    rows = [
        (f"{measure}{' (decides)' * (measure == DECISIVE)}", *(_estimate(values[pair]) for pair in found.pairs))
        for measure, values in found.outputs.correlations.items()
    ]
    inputs = "/".join(str(count) for count in found.outputs.inputs)
    return TableRows(f"by what the models answer on {inputs} inputs", ("", *_titles(found)), tuple(rows))


def _changes(found: Relation) -> TableRows:
    assert found.outputs is not None  # noqa: S101
    known = {True: "trained on", False: "not what it was trained on", None: "not recorded"}
    rows = [
        (f"vector of {name}", *map(_estimate, row))
        for name, row in zip(found.names, found.outputs.changes, strict=True)
    ]
    rows.append(("test set of its own vector", *(known[one] for one in found.outputs.learned)))
    return TableRows("change of the loss (nats) on each test set", ("", *found.names), tuple(rows))


def _removals(found: Relation) -> TableRows:
    assert found.outputs is not None  # noqa: S101
    removals = found.outputs.removals
    alphas = list(dict.fromkeys(one.alpha for one in removals))
    rows = [
        (
            task,
            f"{next(one.known for one in removals if one.task == task):g}",
            *(_estimate(one.rise) for one in removals if one.task == task),
        )
        for task in dict.fromkeys(one.task for one in removals)
    ]
    title = f"expected rise of the loss (nats) when alpha times {found.names[0]} is taken away"
    return TableRows(title, ("task", "stand-in", *(f"alpha {alpha:g}" for alpha in alphas)), tuple(rows))


def _titles(found: Relation) -> list[str]:
    return [f"{found.names[i]} - {found.names[j]}" for i, j in found.pairs]


def _cells(found: Relation, group: Group, measure: str) -> list[str]:
    return [_number(getattr(group, measure)(*pair)) for pair in found.pairs]


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:+.3f}"  # noqa: PLR0124  (NaN)


def _range(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):+.3f} to {max(known):+.3f}" if known else "-"


def _overlap(found: Relation, pair: tuple[int, int], side: str) -> str:
    cosines = [getattr(one, side) for one in found.subspaces or () if one.pair == pair]
    return _number(statistics.fmean(statistics.fmean(c * c for c in one) for one in cosines) if cosines else None)


def _shared(found: Relation, pair: tuple[int, int]) -> str:
    shares = [one.shared for one in found.subspaces or () if one.pair == pair]
    return _number(statistics.fmean(shares) if shares else None)


def _estimate(value: Estimate | None) -> str:
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{value.value:+.3f}"
    return f"{value.value:+.3f} ({value.low:+.3f} to {value.high:+.3f})"
