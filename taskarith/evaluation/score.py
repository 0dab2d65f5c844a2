"""Records to numbers, one way for `eval` and `score`; and the verb `score`, which needs no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from taskarith.errors import DataError, MismatchError, UsageError, name_some
from taskarith.evaluation.conventions import conventions_of
from taskarith.evaluation.merges import merge_numbers
from taskarith.evaluation.metrics.intervals import Estimate, Spread, over_seeds
from taskarith.evaluation.numbers import BESIDE, FORGET, across_texts, of_text
from taskarith.evaluation.read_records import RecordTable, other_samples, read_sheets

__all__ = ["Number", "Scores", "make_scores", "score"]

Number = Estimate | Spread

NEEDS_FINETUNED = "needs the model that was fine-tuned for each task: score RECORDS --finetuned TASK=MODEL"


@dataclass(frozen=True)
class Scores:
    """Numbers of models, made from records.

    :param models: Names of the rows.
    :param texts: Names of the texts in the order in which they first occur.
    :param by_text: Model, then text, then name, to number.
    :param overall: Model, then name, to the numbers that need several texts or the retain model.
    :param missing: Model, then name, to why a number is missing; of a single text its name is ``NUMBER of TEXT``.
    :param remarks: What does not compare.
    """

    models: tuple[str, ...]
    texts: tuple[str, ...]
    by_text: dict[str, dict[str, dict[str, Number]]]
    overall: dict[str, dict[str, Number]]
    missing: dict[str, dict[str, str]]
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values of JSON, with the conventions of the numbers that are there."""
        names = {name for texts in self.by_text.values() for numbers in texts.values() for name in numbers}
        names |= {name for numbers in self.overall.values() for name in numbers}
        return {
            "models": list(self.models),
            "texts": list(self.texts),
            "scores": {
                model: {text: _plain(self.by_text[model][text]) for text in self.texts if text in self.by_text[model]}
                for model in self.models
            },
            "overall": {model: _plain(self.overall[model]) for model in self.models},
            "missing": self.missing,
            "remarks": list(self.remarks),
            "conventions": conventions_of(names),
        }


def score(
    records: Sequence[str | Path],
    *,
    retain: str | Path | None = None,
    finetuned: Mapping[str, str | Path] = MappingProxyType({}),
    seeds: bool = False,
) -> Scores:
    """Recompute every number from stored records.

    Some texts get more numbers by their names: ``forget``, ``retain``, ``real_authors`` and ``world_facts`` TOFU's,
    ``forget`` and ``holdout`` membership inference, ``verbmem``, ``knowmem_forget`` and ``knowmem_retain`` MUSE's.

    :param records: Folders or files: ``records.jsonl`` of an evaluation, or TOFU's ``eval_log*.json``.
    :param retain: A model that never saw the forget set: its name among those of the records, or a folder or file with
        its records alone, on the same samples.
    :param finetuned: Name of a text, or of a task of lm-eval, to the model that was fine-tuned for it: named as the
        retain model is, and what the accuracy of the others is divided by.
    :param seeds: The records are of the same models under several seeds, in the same order: give mean and spread.
    :raises DataError: Records are missing, incomplete, twice or not finite.
    :raises MismatchError: Records that are to be combined are of other samples.
    :raises UsageError: There are no records, or too few seeds, or the retain records are of several models.
    """
    if not records:
        raise UsageError("no records are given", "Name one or more, as in: taskarith score runs/eval")
    sources = [read_sheets(path) for path in records]
    rows = _named(sources)
    scores = make_scores(
        rows,
        {} if retain is None else _retain_sheets(sources, rows, str(retain)),
        _finetuned_sheets(sources, rows, finetuned),
    )
    return _over_seeds(scores, sources, rows) if seeds else scores


def make_scores(
    rows: Mapping[str, RecordTable],
    retain: Mapping[str, RecordTable],
    finetuned: Mapping[str, Mapping[str, RecordTable]] = MappingProxyType({}),
) -> Scores:
    """Make all numbers from records.

    :param rows: Name of each row, and the records of its model.
    :param retain: Name of a row to the records of a model that never saw the forget set; that may be a row too.
    :param finetuned: Name of a row, then of a text, to the records of the model that was fine-tuned for it.
    """
    texts = tuple(dict.fromkeys(text for sheet in rows.values() for text in sheet.texts))
    by_text: dict[str, dict[str, dict[str, Number]]] = {}
    overall: dict[str, dict[str, Number]] = {}
    missing: dict[str, dict[str, str]] = {}
    for name, sheet in rows.items():
        found, missing[name] = across_texts(sheet, retain.get(name))
        of_tasks, lacking = merge_numbers(sheet, finetuned.get(name, {}))
        overall[name] = {**found, **of_tasks}
        missing[name] |= lacking
        if "task" in sheet.kinds and len(rows) > 1 and not finetuned:
            missing[name]["normalised_accuracy"] = NEEDS_FINETUNED
        parts = {text: of_text(sheet, text) for text in sheet.texts}
        by_text[name] = {text: dict(found) for text, (found, _) in parts.items()}
        missing[name] |= {key: why for _, lacking in parts.values() for key, why in lacking.items()}
    return Scores(tuple(rows), texts, by_text, overall, missing, _remarks(rows))


def _retain_sheets(
    sources: Sequence[Sequence[RecordTable]], rows: Mapping[str, RecordTable], retain: str
) -> dict[str, RecordTable]:
    """Return for each row the records of the retain model: those beside it, or those named."""
    what = "the model that never saw the forget set"
    found = _beside(sources, rows, retain, f"--retain {retain}", what)
    for sheet in found.values():
        if not any(sheet.of(kind, FORGET) for kind in ("answer", "loss")):
            raise DataError(
                f"{retain} has no losses or answers of a text named {FORGET}", f"Evaluate it on {FORGET}=DATA too."
            )
    return found


def _finetuned_sheets(
    sources: Sequence[Sequence[RecordTable]], rows: Mapping[str, RecordTable], finetuned: Mapping[str, str | Path]
) -> dict[str, dict[str, RecordTable]]:
    """Return for each row the records of the models that were fine-tuned, by text."""
    texts = {text for sheet in rows.values() for text in sheet.texts}
    if unknown := [text for text in finetuned if text not in texts]:
        raise UsageError(
            f"--finetuned names {name_some(unknown)}, of which there are no records",
            f"There are records of {name_some(sorted(texts))}.",
        )
    found = {
        text: _beside(sources, rows, str(model), f"--finetuned {text}={model}", "the fine-tuned model")
        for text, model in finetuned.items()
    }
    return {row: {text: sheets[row] for text, sheets in found.items()} for row in rows if found}


def _beside(
    sources: Sequence[Sequence[RecordTable]], rows: Mapping[str, RecordTable], name: str, option: str, what: str
) -> dict[str, RecordTable]:
    """Return for each row the records of a model: of its own source if it is there, of another, or of a path.

    :param option: Names it in errors.
    :param what: What the model is.
    """
    inside = [next((sheet for sheet in source if sheet.model == name), None) for source in sources]
    other = next((sheet for sheet in inside if sheet is not None), None) or _single(name, option, what)
    own = {id(sheet): beside for source, beside in zip(sources, inside, strict=True) for sheet in source}
    return {row: own[id(sheet)] or other for row, sheet in rows.items()}


def _single(path: str, option: str, what: str) -> RecordTable:
    sheets = read_sheets(path)
    if len(sheets) > 1:
        raise UsageError(
            f"{option} has records of several models: {name_some([sheet.model for sheet in sheets])}",
            f"Keep the lines of {what}.",
        )
    return sheets[0]


def _named(sources: Sequence[Sequence[RecordTable]]) -> dict[str, RecordTable]:
    """Return all sheets by the name of their row: the model's, and where several have it also where it is from."""
    sheets = [sheet for source in sources for sheet in source]
    names = [sheet.model for sheet in sheets]
    rows: dict[str, RecordTable] = {}
    for sheet in sheets:
        name = sheet.model if names.count(sheet.model) == 1 else f"{sheet.model} ({sheet.where})"
        if name in rows:
            raise UsageError(f"{sheet.where} is given twice", "Name each of the records once.")
        rows[name] = sheet
    return rows


def _remarks(rows: Mapping[str, RecordTable]) -> tuple[str, ...]:
    """Say where models side by side were asked different things."""
    first, *others = rows.items()
    remarks = [
        f"{first[0]} and {name} do not compare ({kind}): they have {other}"
        for name, sheet in others
        for kind, text in ((kind, text) for kind, texts in first[1].kinds.items() for text in texts)
        if sheet.of(kind, text) and (other := other_samples(first[1], sheet, kind, text))
    ]
    return tuple(dict.fromkeys(remarks))


def _over_seeds(scores: Scores, sources: Sequence[Sequence[RecordTable]], rows: Mapping[str, RecordTable]) -> Scores:
    """Return one row for the models at the same place of each source; its name is the first one's."""
    if len(sources) < 2 or len({len(source) for source in sources}) > 1:
        raise UsageError(
            "--seeds needs records of two seeds or more, with equally many models each",
            "Name one RECORDS for each seed.",
        )
    if scores.remarks:
        raise MismatchError(scores.remarks[0], "Evaluate all seeds on the same data.")
    names = {id(sheet): name for name, sheet in rows.items()}
    groups = {members[0].model: [names[id(sheet)] for sheet in members] for members in zip(*sources, strict=True)}
    alias = {sheet.model: members[0].model for members in zip(*sources, strict=True) for sheet in members}
    by_text: dict[str, dict[str, dict[str, Number]]] = {}
    overall: dict[str, dict[str, Number]] = {}
    missing: dict[str, dict[str, str]] = {}
    for row, members in groups.items():
        missing[row] = {name: what for member in reversed(members) for name, what in scores.missing[member].items()}
        by_text[row] = {}
        for text in scores.texts:
            found = [_renamed(scores.by_text[member].get(text, {}), alias) for member in members]
            by_text[row][text], lost = _spread(found)
            missing[row] |= dict.fromkeys(lost, f"is not there for {text} under every seed")
        overall[row], lost = _spread([scores.overall[member] for member in members])
        missing[row] |= {name: missing[row].get(name, "is not there under every seed") for name in lost}
    return Scores(tuple(groups), scores.texts, by_text, overall, missing)


def _renamed(numbers: Mapping[str, Number], alias: Mapping[str, str]) -> dict[str, Number]:
    """Give numbers that compare with another row the name of that row, which is the first seed's."""
    parts = {name: next((start for start in BESIDE if name.startswith(start)), "") for name in numbers}
    return {
        start + alias.get(name.removeprefix(start), name.removeprefix(start)) if start else name: numbers[name]
        for name, start in parts.items()
    }


def _spread(seeds: Sequence[Mapping[str, Number]]) -> tuple[dict[str, Number], list[str]]:
    """Return mean and spread of every number that all seeds have, and the names of those that only some have."""
    names = dict.fromkeys(name for numbers in seeds for name in numbers)
    shared = [name for name in names if all(name in numbers for numbers in seeds)]
    spread = {name: over_seeds([numbers[name].value for numbers in seeds]) for name in shared}
    return dict(spread), [name for name in names if name not in spread]


def _plain(numbers: Mapping[str, Number]) -> dict[str, Any]:
    return {name: number.to_json() for name, number in numbers.items()}
