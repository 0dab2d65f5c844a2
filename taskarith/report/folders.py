"""Parts of a report from the folders that `eval`, `score`, `sweep`, `attack` and `relate` wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taskarith.attacks.recovery import Cell, Outcome
from taskarith.attacks.result import AttackResult
from taskarith.checkpoints.checkpoint import read_json
from taskarith.checkpoints.provenance import read_provenance
from taskarith.errors import CheckpointError, DataError, UsageError
from taskarith.evaluation.read_records import read_records, read_tables
from taskarith.evaluation.records import Record
from taskarith.evaluation.score import make_scores, score
from taskarith.evaluation.scored import read_scores
from taskarith.report.attacks import attack_tables
from taskarith.report.evidence import digests_of, holders_of
from taskarith.report.knowledge import knowledge
from taskarith.report.layers import layers_of
from taskarith.report.page import Figure, Part
from taskarith.report.relation_part import relation_part
from taskarith.report.samples import samples_of
from taskarith.report.scores import score_remarks, score_tables
from taskarith.report.tables import short_names
from taskarith.sweeps.reasons import unconfirmed
from taskarith.untrusted import read_bytes

__all__ = ["part_of"]

_DRAWINGS = {
    "curve.svg": "Loss of each text against alpha, and the loss of kept texts against that of forgotten ones",
    "recovery.svg": "What relearning brings back, step by step",
    "cosines.svg": "Cosines of the vectors, by kind of module and by layer",
    "alpha.svg": "Scores of each text against alpha",
}

_SEEDS = "These are means over several seeds, with the standard deviation between them, not intervals."


@dataclass(frozen=True)
class _Folder:
    """What a command wrote.

    :param path: The folder.
    :param name: What it is called.
    :param record: Its ``taskarith.json``.
    :param results: Its ``results.json``.
    :param records: Its ``records.jsonl``.
    """

    path: Path
    name: str
    record: Mapping[str, Any]
    results: Mapping[str, Any]
    records: Sequence[Record]

    @property
    def drawings(self) -> tuple[Figure, ...]:
        """The drawings in it."""
        found = [(self.path / name, title) for name, title in _DRAWINGS.items()]
        return tuple(Figure(title, read_bytes(path)) for path, title in found if path.is_file())

    @property
    def facts(self) -> dict[str, str]:
        """What was measured, with what, and when."""
        record = self.record
        listed = record.get("models") or []
        entries = listed.values() if isinstance(listed, Mapping) else listed
        models = {str(one.get("name", "")): one for one in entries if isinstance(one, Mapping)}
        vectors = [one for one in record.get("vectors") or [] if isinstance(one, Mapping)]
        records = [one for one in record.get("records") or [] if isinstance(one, Mapping)]
        return {
            **{
                f"records {number}, of {Path(str(one.get('name'))).parent.name}": _described(one)
                for number, one in enumerate(records, 1)
            },
            **{f"model {Path(name).name}": _described(one) for name, one in models.items()},
            **{f"vector {one.get('name')}": _described(one) for one in vectors},
            **{f"text {name}": _described(one) for name, one in dict(record.get("data") or {}).items() if one},
            "written": str(record.get("time", "unknown")),
            "versions": ", ".join(f"{name} {number}" for name, number in dict(record.get("versions") or {}).items()),
            "folder": self.name,
        }


def part_of(path: Path, name: str = "") -> Part:
    """Return what a folder says.

    :param path: The folder.
    :param name: What it is called, if not as the path.
    :raises DataError: It is not a folder of eval, score, sweep, attack or relate, or a file in it is broken.
    """
    folder = _open(path, name or path.name)
    kind = folder.record.get("kind")
    if kind not in _PARTS:
        hint = "Give folders of eval, score, sweep, attack or relate."
        raise UsageError(f"{path} is the output of another command ({kind})", hint)
    try:
        part = _PARTS[kind](folder)
        has_samples = any(one["kind"] == "continuation" for one in folder.records)
        return replace(
            part,
            facts=folder.facts,
            figures=folder.drawings,
            command=str(folder.record.get("command", "")),
            digests=digests_of(folder.record, folder.name),
            holders=holders_of(folder.record, folder.name, has_samples),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"the results in {path} are broken: {error}", "Measure again into another folder.") from error


def _open(path: Path, name: str) -> _Folder:
    record = read_provenance(path) if path.is_dir() else None
    if record is None or not (path / "results.json").is_file():
        raise DataError(
            f"{path} does not contain results", "Give a folder that eval, score, sweep, attack or relate wrote with -o."
        )
    may_lack = record.get("kind") in {"relation", "scores"}
    records = [] if may_lack and not (path / "records.jsonl").is_file() else read_records(path)
    return _Folder(path, name, record, _read_results(path / "results.json"), records)


def _read_results(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except CheckpointError as error:
        raise DataError(error.message, "Measure again into another folder.") from error


def _described(record: Any) -> str:
    """Write what a record says of an input on one line, without the folders that it lies in."""
    values = {key: value for key, value in dict(record).items() if isinstance(value, str | int | float) and value != ""}
    values |= {key: Path(str(values[key])).name for key in ("name", "spec", "vector") if key in values}
    return ", ".join(f"{key} {value}" for key, value in values.items())


# --- evaluations -----------------------------------------------------------------------------------------------------


def _evaluation(folder: _Folder) -> Part:
    reference = dict(folder.record.get("arguments") or {}).get("retain")
    rows = {table.model: table for table in read_tables(folder.path)}
    last = next(reversed(rows))  # where the reference's row is
    known = last if _ends_like(last, reference) else None
    scores = make_scores(rows, {} if known is None else dict.fromkeys(rows, rows[known]))
    return Part(
        "Evaluation",
        verdicts=tuple(knowledge(rows, folder.records, scores, known)),
        tables=tuple(score_tables(scores)),
        layers=layers_of(rows, scores, known),
        samples=samples_of(folder.records, short_names(scores.models)),
        remarks=tuple(score_remarks(scores)),
        conventions=folder.results["conventions"],
    )


def _ends_like(model: str, reference: object) -> bool:
    """Tell whether a row is the reference, which the record names relative to its folder."""
    return isinstance(reference, str) and Path(model).name == Path(reference).name


def _scores(folder: _Folder) -> Part:
    scores, reference = read_scores(folder.results), folder.results["reference"]
    rows = {table.model: table for table in read_tables(folder.path)} if folder.records else {}
    whole = make_scores(rows, {}) if rows else scores  # of the reference, too, where its records are others
    return Part(
        "Scores",
        verdicts=tuple(knowledge(rows, folder.records, whole, reference)) if rows else (_SEEDS,),
        tables=tuple(score_tables(scores)),
        layers=layers_of(rows, whole, reference) if rows else None,
        samples=samples_of(folder.records, short_names(tuple(rows))),
        remarks=tuple(score_remarks(scores)),
        conventions=folder.results["conventions"],
    )


# --- sweeps and attacks ----------------------------------------------------------------------------------------------


def _sweep(folder: _Folder) -> Part:
    found = folder.results
    scores = score([folder.path])
    names = short_names(scores.models)
    reason = str(found["reason"])
    for model in sorted(names, key=len, reverse=True):  # no path of this machine
        reason = reason.replace(model, names[model])
    best = found["recommended"]
    verdicts = [f"{reason[:1].upper()}{reason[1:]}." if best is None else f"Alpha {best['alpha']:g}: {reason}."]
    if found["holds_on_held_out"] is False:
        verdicts.append(f"On {unconfirmed(found.get('missed_on_held_out', ()))}.")
    chosen = [row["name"] for row in (found["rows"][0], found["recommended"] or found["rows"][-1])]
    return Part(
        "Sweep over coefficients",
        verdicts=tuple(verdicts),
        tables=tuple(score_tables(scores)),
        samples=samples_of(folder.records, {name: names[name] for name in chosen}),
        remarks=tuple(score_remarks(scores)),
        conventions=found["conventions"],
    )


def _attack(folder: _Folder) -> Part:
    found = folder.results
    outcomes = tuple(_outcome(one) for one in found["outcomes"])
    result = AttackResult(
        dict(found["models"]), found["untouched"], outcomes, tuple(found["given_to_attacker"]), (), []
    )
    return Part(
        "Attacks",
        verdicts=tuple(_strongest(found)),
        tables=tuple(attack_tables(result)),
        remarks=tuple(map(str, found["missing"])),
        conventions=found["conventions"],
    )


def _outcome(found: Mapping[str, Any]) -> Outcome:
    cells = {name: Cell(**_paired(cell)) for name, cell in found["cells"].items()}
    values: dict[str, Any] = {**found, "cells": cells}
    return Outcome(**values)


def _paired(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell with its intervals as pairs, which JSON has as lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in cell.items()}


def _strongest(found: Mapping[str, Any]) -> list[str]:
    names = {"loss": "the loss", "accuracy": "top-1 accuracy", "rouge_l_f1": "ROUGE-L of continuations"}
    sentences = []
    for one in found["strongest"]:
        if one["metric"] not in names or not one["outcome"] or one["interval"] is None:
            continue
        low, high = (f"{100 * end:.0f}%" for end in one["interval"])
        attack = " ".join(str(one["outcome"][key]) for key in ("attack", "name"))
        back = f"{100 * one['beyond']:.0f}% ({low} to {high}, 95% for all {one['attacks']} attacks at once)"
        shown = "brings back" if one["interval"][0] > 0 else "is not shown to bring anything back:"
        sentences.append(
            f"By {names[one['metric']]} the strongest attack, {attack}, {shown} {back} of what the edit took."
        )
    return sentences or [
        "No attack is named strongest: there are too few samples, or models to compare with are missing."
    ]


_PARTS: Mapping[object, Callable[[_Folder], Part]] = {
    "evaluation": _evaluation,
    "scores": _scores,
    "sweep": _sweep,
    "attack": _attack,
    "relation": lambda folder: relation_part(folder.results),
}
"""What makes the part of each kind of results."""
