"""What the results of `relate` say, as a part of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.relations.verdict import Statement, Verdict
from taskarith.report.page import Part
from taskarith.report.relations import estimate_cell, number_cell
from taskarith.report.tables import TableRows

__all__ = ["relation_part"]

_REGIMES = {
    "aligned": "help each other: what is learned or removed of one is learned or removed of the other, too",
    "irrelevant": "hardly touch each other: one can be added or removed while the other stays as it is",
    "contradictory": "work against each other: adding the one harms the other",
    "undecided": "are not shown to help, to harm, or to leave each other alone",
}


def relation_part(results: Mapping[str, Any]) -> Part:
    """Return the part of a report on how task vectors relate.

    :param results: Its ``results.json``.
    :raises KeyError, TypeError, ValueError: They are broken.
    """
    names = [str(name) for name in results["names"]]
    pairs = [" and ".join(map(str, pair)) for pair in results["pairs"]]
    outputs = results["outputs"]
    verdicts = [_read_verdict(one) for one in results["verdicts"]]
    tables = [_norms(names, results["weights"]), _cosines(pairs, results["weights"])]
    tables += [] if outputs is None else [_correlations(pairs, outputs), _changes(names, outputs)]
    return Part(
        "Relations of task vectors",
        verdicts=tuple(_sentence(one) for one in verdicts) or (_no_verdict(pairs),),
        tables=tuple(tables),
        remarks=(*map(str, results["remarks"]), *dict.fromkeys(one.reason for one in verdicts if one.reason)),
        conventions=_CONVENTIONS if outputs is None else {**_CONVENTIONS, **_texts(outputs["measures"])},
    )


_CONVENTIONS = {
    "norm": "Euclidean norm of all entries of a vector",
    "cosine": "inner product of two vectors over the product of their norms",
    "sign_agreement": "share of entries with the same sign among those nonzero in both vectors",
    "interference": "1 - |a + b|^2 / (|a|^2 + |b|^2): the share of energy that cancels in the sum",
}


def _no_verdict(pairs: Sequence[str]) -> str:
    return f"Nothing is said on whether to add or remove {pairs[0]} together: that needs a test set of each (--data)."


def _sentence(verdict: Verdict) -> str:
    pair = f"{verdict.first} and {verdict.second}"
    return f"{pair} {_REGIMES[verdict.regime]} ({verdict.regime}; correlation {estimate_cell(verdict.alpha)}, 95%)."


def _read_verdict(found: Mapping[str, Any]) -> Verdict:
    statements: dict[str, Any] = {name: Statement(**found[name]) for name in ("addition", "negation")}
    values: dict[str, Any] = {**found, **statements, "alpha": _estimate(found["alpha"])}
    return Verdict(**values)


def _estimate(found: Mapping[str, Any] | None) -> Estimate | None:
    return None if found is None else Estimate(**found)


def _norms(names: Sequence[str], weights: Mapping[str, Any]) -> TableRows:
    rows = tuple((title, *(f"{norm:.4g}" for norm in group["norms"])) for title, group in _groups(weights))
    return TableRows("norms", ("", *names), rows)


def _cosines(pairs: Sequence[str], weights: Mapping[str, Any]) -> TableRows:
    whole = weights["all"]
    rows = [(f"cosine, {title}", *map(number_cell, group["cosine"])) for title, group in _groups(weights)]
    rows.append(("sign agreement", *map(number_cell, whole["sign_agreement"])))
    rows.append(("energy cancelled in the sum", *map(number_cell, whole["interference"])))
    shares = dict(weights["overlaps"]).items()
    rows += [(f"overlap of the largest {float(share):.0%}", *map(number_cell, values)) for share, values in shares]
    return TableRows("as weights", ("", *pairs), tuple(rows))


def _groups(weights: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    named = [(name, weights[name]) for name in ("all", "without embeddings and head")]
    return [*named, *dict(weights["kinds"]).items()]


def _correlations(pairs: Sequence[str], outputs: Mapping[str, Any]) -> TableRows:
    decides = str(outputs["decisive"])
    rows = tuple(
        (f"{measure}{' (decides)' * (measure == decides)}", *(estimate_cell(_estimate(value)) for value in values))
        for measure, values in dict(outputs["correlations"]).items()
    )
    return TableRows("correlations as outputs", ("", *pairs), rows)


def _changes(names: Sequence[str], outputs: Mapping[str, Any]) -> TableRows:
    rows = tuple(
        (f"vector of {name}", *(estimate_cell(_estimate(value)) for value in values))
        for name, values in zip(names, outputs["changes"], strict=True)
    )
    return TableRows("change of the loss (nats) on each test set", ("", *names), rows)


def _texts(measures: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(text) for name, text in measures.items()}
