"""The folder of results that `relate` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from taskarith.checkpoints.publish import publish_folder
from taskarith.data.load import load_data
from taskarith.edit.edit import located
from taskarith.evaluation.results import complete_results, write_results
from taskarith.models.runtime import Runtime
from taskarith.relations.inputs import TestInputs
from taskarith.relations.vectors import Related
from taskarith.vectors.vector import BaseRecord

__all__ = ["relation_record", "write_relation"]


def relation_record(
    related: Related, data: Mapping[str, str], cut: TestInputs, runtime: Runtime, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a relation is made from, for ``taskarith.json``.

    :param related: The vectors and their base.
    :param data: The test set of each.
    :param cut: How inputs are cut from them.
    :param runtime: How models are loaded.
    :param arguments: Further arguments.
    """
    bases = ["" if operand.base is None else operand.base.fingerprint for operand in related.operands]
    return {
        "kind": "relation",
        "models": [BaseRecord.of(related.chosen.resolved).to_json()],
        "vectors": [
            {
                "name": name,
                "vector": located(reference.name),
                "coefficient": reference.coefficient,
                "base fingerprint": base,
            }
            for name, reference, base in zip(related.names, related.references, bases, strict=True)
        ],
        "data": {name: load_data(spec, cut.form).record() for name, spec in data.items()},
        "arguments": {**asdict(cut), **runtime.record(runtime.device), **arguments},
    }


def write_relation(
    results: Mapping[str, Any],
    record: Mapping[str, Any],
    target: Path,
    overwrite: bool,
    draw: Callable[[Path], object] | None,
) -> None:
    """Publish the results of a relation with their record.

    :param results: What ``results.json`` holds.
    :param record: What it was made from.
    :param target: The folder.
    :param overwrite: Replace an existing output.
    :param draw: Draws the results into the folder.
    :raises OutputError: The folder may not be replaced, or cannot be written.
    """
    with publish_folder(target, overwrite) as folder:
        write_results(folder, results)
        complete_results(folder, record, target, None if draw is None else lambda: draw(folder))
