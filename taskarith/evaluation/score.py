"""Numbers from records, for `eval` and for the verb `score`, which needs no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from taskarith.calls import listed, renamed
from taskarith.errors import DataError, MismatchError, UsageError, name_some
from taskarith.evaluation.conventions import conventions_of
from taskarith.evaluation.merges import merge_numbers
from taskarith.evaluation.metrics.intervals import Estimate, Spread, over_seeds
from taskarith.evaluation.numbers import BESIDE, FORGET, across_texts, of_text
from taskarith.evaluation.read_records import RecordTable, other_samples, read_tables
from taskarith.tidy import TidyResult, TidyRow

__all__ = ["Number", "Scores", "make_scores", "row_names", "score", "tidy_row"]

Number = Estimate | Spread

NEEDS_FINETUNED = "needs the model fine-tuned for each task: score RECORDS --finetuned TASK=MODEL"


@dataclass(frozen=True, repr=False)
class Scores(TidyResult):
    """Numbers of models, calculated from records.

    :param models: Names of the rows.
    :param texts: Names of the texts in the order in which they first occur.
    :param by_text: Numbers by model, text and name.
    :param overall: Numbers over several texts or with the retain model, by model and name.
    :param missing: Why numbers are missing, by model and name; for a single text, the name is ``NUMBER of TEXT``.
    :param remarks: Notes on what is not comparable.
    """

    models: tuple[str, ...]
    texts: tuple[str, ...]
    by_text: dict[str, dict[str, dict[str, Number]]]
    overall: dict[str, dict[str, Number]]
    missing: dict[str, dict[str, str]]
    remarks: tuple[str, ...] = ()

    def _brief(self) -> dict[str, object]:
        return {"models": self.models, "texts": self.texts, "numbers": len(self.tidy())}

    def tidy(self) -> list[TidyRow]:
        """Return every number with its interval: of each model, by text, then over several texts."""
        parts = [
            (model, text, numbers)
            for model in self.models
            for text, numbers in [*self.by_text[model].items(), ("", self.overall[model])]
        ]
        return [tidy_row(model, text, name, one) for model, text, numbers in parts for name, one in numbers.items()]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with the conventions of the numbers."""
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


def tidy_row(model: str, text: str, name: str, number: Number) -> TidyRow:
    """Return a number as a row of a tidy table."""
    if isinstance(number, Spread):
        return TidyRow(model, text, name, number.value, n=number.seeds, deviation=number.spread)
    return TidyRow(model, text, name, number.value, number.low, number.high, number.n)


@renamed(retain="reference")
def score(
    records: str | Path | Sequence[str | Path],
    *,
    reference: str | Path | None = None,
    finetuned: Mapping[str, str | Path] = MappingProxyType({}),
    seeds: bool = False,
) -> Scores:
    """Recompute every number from stored records.

    Names of texts select further numbers: ``forget``, ``retain``, ``real_authors`` and ``world_facts`` give TOFU's,
    ``forget`` and ``holdout`` membership inference, ``verbmem``, ``knowmem_forget`` and ``knowmem_retain`` MUSE's.

    :param records: Folders or files: ``records.jsonl`` of an evaluation, or TOFU's ``eval_log*.json``.
    :param reference: A model that never saw the forget set: its name in the records, or a folder or file with its
        records only, on the same samples.
    :param finetuned: For a text or lm-eval task, the model fine-tuned for it, named like the reference model;
        accuracies are divided by its accuracy.
    :param seeds: The records are of the same models under several seeds, in the same order; return mean and spread.
    :raises DataError: Records are missing, incomplete, duplicate or not finite.
    :raises MismatchError: Records to be combined are of different samples.
    :raises UsageError: There are no records or too few seeds, or the reference's records are of several models.
    """
    records = listed(records)
    if not records:
        raise UsageError("no records are given", "Name at least one folder, as in: taskarith score runs/eval")
    sources = [read_tables(path) for path in records]
    rows = _named(sources)
    scores = make_scores(
        rows,
        {} if reference is None else _reference_tables(sources, rows, str(reference)),
        _finetuned_tables(sources, rows, finetuned),
    )
    return _over_seeds(scores, sources, rows) if seeds else scores


def make_scores(
    rows: Mapping[str, RecordTable],
    retain: Mapping[str, RecordTable],
    finetuned: Mapping[str, Mapping[str, RecordTable]] = MappingProxyType({}),
) -> Scores:
    """Calculate all numbers from records.

    :param rows: Records of each row's model.
    :param retain: For each row, the records of a model that never saw the forget set, which may also be a row.
    :param finetuned: By row and text, the records of the model fine-tuned for the text.
    """
    texts = tuple(dict.fromkeys(text for table in rows.values() for text in table.texts))
    by_text: dict[str, dict[str, dict[str, Number]]] = {}
    overall: dict[str, dict[str, Number]] = {}
    missing: dict[str, dict[str, str]] = {}
    for name, table in rows.items():
        numbers, missing[name] = across_texts(table, retain.get(name))
        of_tasks, lacking = merge_numbers(table, finetuned.get(name, {}))
        overall[name] = {**numbers, **of_tasks}
        missing[name] |= lacking
        if "task" in table.kinds and len(rows) > 1 and not finetuned:
            missing[name]["normalised_accuracy"] = NEEDS_FINETUNED
        parts = {text: of_text(table, text) for text in table.texts}
        by_text[name] = {text: dict(numbers) for text, (numbers, _) in parts.items()}
        missing[name] |= {key: reason for _, lacking in parts.values() for key, reason in lacking.items()}
    return Scores(tuple(rows), texts, by_text, overall, missing, _remarks(rows))


def _reference_tables(
    sources: Sequence[Sequence[RecordTable]], rows: Mapping[str, RecordTable], reference: str
) -> dict[str, RecordTable]:
    """Return the reference model's records for each row."""
    description = "the model that never saw the forget set"
    tables = _records_of(sources, rows, reference, f"--reference {reference}", description)
    for table in tables.values():
        if not any(table.of(kind, FORGET) for kind in ("answer", "loss")):
            raise DataError(
                f"{reference} has no losses or answers of a text named {FORGET}", f"Evaluate it on {FORGET}=DATA, too."
            )
    return tables


def _finetuned_tables(
    sources: Sequence[Sequence[RecordTable]], rows: Mapping[str, RecordTable], finetuned: Mapping[str, str | Path]
) -> dict[str, dict[str, RecordTable]]:
    """Return the fine-tuned models' records by row and text."""
    texts = {text for table in rows.values() for text in table.texts}
    if unknown := [text for text in finetuned if text not in texts]:
        raise UsageError(
            f"--finetuned names {name_some(unknown)}, which the records do not contain",
            f"The records contain {name_some(sorted(texts))}.",
        )
    by_text = {
        text: _records_of(sources, rows, str(model), f"--finetuned {text}={model}", "the fine-tuned model")
        for text, model in finetuned.items()
    }
    return {row: {text: tables[row] for text, tables in by_text.items()} for row in rows if by_text}


def _records_of(
    sources: Sequence[Sequence[RecordTable]], rows: Mapping[str, RecordTable], name: str, option: str, description: str
) -> dict[str, RecordTable]:
    """Return a model's records for each row: from the row's own source, else from another, else from a path.

    :param option: The option, for errors.
    :param description: The model in words, for errors.
    """
    own_tables = [next((table for table in source if table.model == name), None) for source in sources]
    other = next((table for table in own_tables if table is not None), None) or _single(name, option, description)
    own = {
        id(table): table_of_model
        for source, table_of_model in zip(sources, own_tables, strict=True)
        for table in source
    }
    return {row: own[id(table)] or other for row, table in rows.items()}


def _single(path: str, option: str, description: str) -> RecordTable:
    tables = read_tables(path)
    if len(tables) > 1:
        raise UsageError(
            f"{option} has records of several models: {name_some([table.model for table in tables])}",
            f"Keep only the lines of {description}.",
        )
    return tables[0]


def _named(sources: Sequence[Sequence[RecordTable]]) -> dict[str, RecordTable]:
    """Return all tables by row name."""
    rows: dict[str, RecordTable] = {}
    for source, names in zip(sources, row_names(sources), strict=True):
        for table in source:
            if names[table.model] in rows:
                raise UsageError(f"{table.where} is given twice", "Give each of the records once.")
            rows[names[table.model]] = table
    return rows


def row_names(sources: Sequence[Sequence[RecordTable]]) -> list[dict[str, str]]:
    """Return the row of each model of each source: its name, plus the source if several models share it."""
    count = Counter(table.model for source in sources for table in source)
    return [
        {one.model: one.model if count[one.model] == 1 else f"{one.model} ({one.where})" for one in source}
        for source in sources
    ]


def _remarks(rows: Mapping[str, RecordTable]) -> tuple[str, ...]:
    """Return remarks on models that were asked different questions."""
    first, *others = rows.items()
    remarks = [
        f"{first[0]} and {name} are not comparable ({kind}): they have {other}"
        for name, table in others
        for kind, text in ((kind, text) for kind, texts in first[1].kinds.items() for text in texts)
        if table.of(kind, text) and (other := other_samples(first[1], table, kind, text))
    ]
    return tuple(dict.fromkeys(remarks))


def _over_seeds(scores: Scores, sources: Sequence[Sequence[RecordTable]], rows: Mapping[str, RecordTable]) -> Scores:
    """Combine the models at the same position of each source into one row, named after the first."""
    if len(sources) < 2 or len({len(source) for source in sources}) > 1:
        raise UsageError(
            "--seeds needs records of at least two seeds, with the same number of models each",
            "Give one RECORDS per seed.",
        )
    if scores.remarks:
        raise MismatchError(scores.remarks[0], "Evaluate all seeds on the same data.")
    names = {id(table): name for name, table in rows.items()}
    groups = {members[0].model: [names[id(table)] for table in members] for members in zip(*sources, strict=True)}
    alias = {table.model: members[0].model for members in zip(*sources, strict=True) for table in members}
    by_text: dict[str, dict[str, dict[str, Number]]] = {}
    overall: dict[str, dict[str, Number]] = {}
    missing: dict[str, dict[str, str]] = {}
    for row, members in groups.items():
        missing[row] = {name: reason for member in reversed(members) for name, reason in scores.missing[member].items()}
        by_text[row] = {}
        for text in scores.texts:
            numbers = [_renamed(scores.by_text[member].get(text, {}), alias) for member in members]
            by_text[row][text], lost = _spread(numbers)
            missing[row] |= dict.fromkeys(lost, f"is missing for {text} under some seeds")
        overall[row], lost = _spread([scores.overall[member] for member in members])
        missing[row] |= {name: missing[row].get(name, "is missing under some seeds") for name in lost}
    return Scores(tuple(groups), scores.texts, by_text, overall, missing)


def _renamed(numbers: Mapping[str, Number], alias: Mapping[str, str]) -> dict[str, Number]:
    """Rename numbers that compare with another row after the first seed's name of that row."""
    parts = {name: next((start for start in BESIDE if name.startswith(start)), "") for name in numbers}
    return {
        start + alias.get(name.removeprefix(start), name.removeprefix(start)) if start else name: numbers[name]
        for name, start in parts.items()
    }


def _spread(seeds: Sequence[Mapping[str, Number]]) -> tuple[dict[str, Number], list[str]]:
    """Return mean and spread of every number that all seeds have, and the names of the others."""
    names = dict.fromkeys(name for numbers in seeds for name in numbers)
    shared = [name for name in names if all(name in numbers for numbers in seeds)]
    spread = {name: over_seeds([numbers[name].value for numbers in seeds]) for name in shared}
    return dict(spread), [name for name in names if name not in spread]


def _plain(numbers: Mapping[str, Number]) -> dict[str, Any]:
    return {name: number.to_json() for name, number in numbers.items()}
