"""The folder that `score` writes: numbers recomputed from records, and these records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from taskarith.calls import listed
from taskarith.checkpoints.publish import check_target, publish_folder
from taskarith.checkpoints.reader import check_unchanged, file_states
from taskarith.edit.edit import located
from taskarith.evaluation.metrics.intervals import Estimate, Spread
from taskarith.evaluation.read_records import read_records, read_tables
from taskarith.evaluation.records import Record
from taskarith.evaluation.results import complete_results, fingerprint, write_results
from taskarith.evaluation.score import Number, Scores, row_names, score

__all__ = ["read_scores", "write_scores"]


def write_scores(
    records: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    *,
    reference: str | Path | None = None,
    finetuned: Mapping[str, str | Path] = MappingProxyType({}),
    seeds: bool = False,
    overwrite: bool = False,
    draw: Callable[[Scores, Path], object] | None = None,
) -> Scores:
    """Write scores into a folder with the records that they are of, which `score` and `report` read again.

    Records of several seeds are left where they are: models of the same name would be one.

    :param records: Parameters that are not named here are those of ``score``.
    :param output_dir: The folder to publish.
    :param overwrite: Replace an existing output.
    :param draw: Draws the scores into the folder before it is published.
    :raises CheckpointError: Records changed while they were read.
    :raises OutputError: The folder may not be replaced, lies within an input, or cannot be written.
    """
    target, paths = Path(output_dir), [Path(path) for path in listed(records)]
    others = [Path(one) for one in (reference, *finetuned.values()) if one is not None and Path(one).exists()]
    check_target(target, overwrite, is_folder=True, inputs=[*paths, *others])
    files = _files([*paths, *others])
    states = file_states(files)
    scores = score(records, reference=reference, finetuned=finetuned, seeds=seeds)
    rows, never_saw = ([], None) if seeds else _rows(paths, None if reference is None else str(reference))
    record = {
        "kind": "scores",
        "records": [{"name": located(str(path)), "fingerprint": fingerprint(path)} for path in files],
        "arguments": {
            "reference": None if reference is None else located(str(reference)),
            "finetuned": {task: located(str(model)) for task, model in finetuned.items()},
            "seeds": seeds,
        },
    }
    check_unchanged(states)
    with publish_folder(target, overwrite) as folder:
        write_results(folder, {**scores.to_json(), "reference": never_saw}, rows)
        complete_results(folder, record, target, None if draw is None else lambda: draw(scores, folder))
    return scores


def read_scores(values: Mapping[str, Any]) -> Scores:
    """Return scores from the plain values of ``Scores.to_json``.

    :raises KeyError, TypeError, AttributeError: They are others.
    """

    def numbers(found: Mapping[str, Any]) -> dict[str, Number]:
        return {name: _number(**one) for name, one in found.items()}

    return Scores(
        tuple(values["models"]),
        tuple(values["texts"]),
        {model: {text: numbers(one) for text, one in texts.items()} for model, texts in values["scores"].items()},
        {model: numbers(one) for model, one in values["overall"].items()},
        {model: dict(lacking) for model, lacking in values["missing"].items()},
        tuple(values["remarks"]),
    )


def _number(value: float | None, **more: Any) -> Number:
    return (Spread if "seeds" in more else Estimate)(math.inf if value is None else value, **more)


def _rows(paths: Sequence[Path], reference: str | None) -> tuple[list[Record], str | None]:
    """Return the records of all rows, and the row of the model that never saw the forgotten text."""
    sources = [read_tables(path) for path in paths]
    names = row_names(sources)
    rows = [
        {**record, "model": names[number][record["model"]]}
        for number, path in enumerate(paths)
        for record in read_records(path)
    ]
    own = [found[reference] for found in names if reference in found]
    if reference is None or own:
        return rows, own[0] if own else None
    more = read_records(Path(reference))
    name = more[0]["model"]
    if any(name in found.values() for found in names):
        name = f"{name} ({reference})"
    return [*rows, *({**record, "model": name} for record in more)], name


def _files(paths: Sequence[Path]) -> list[Path]:
    """Return the files of records at paths."""
    found = [path / "records.jsonl" if (path / "records.jsonl").is_file() else path for path in paths]
    return [file for path in found for file in ([path] if path.is_file() else sorted(path.glob("eval_log*.json")))]
