"""Records of the data that vectors were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from taskarith.checkpoints.provenance import read_provenance
from taskarith.data.documents import ANSWER_ALONE, RowForm
from taskarith.data.load import load_data
from taskarith.errors import UsageError
from taskarith.relations.vectors import Related
from taskarith.untrusted import MalformedError, parse_json

__all__ = ["learned_from"]


def learned_from(related: Related, data: Mapping[str, str], form: RowForm = ANSWER_ALONE) -> tuple[bool | None, ...]:
    """Tell for each test set whether its vector was trained on it; None if the vector records no data.

    :param data: The test set of each vector, in order.
    :param form: How questions and chats of test sets are formatted.
    :raises UsageError: Another vector was trained on a test set.
    :raises DataError: A test set is missing.
    """
    recorded = [_recorded(related, index) for index in range(len(related.names))]
    tested = [_fingerprints(spec, form) for spec in data.values()]
    for (name, spec), test, own in zip(data.items(), tested, recorded, strict=True):
        others = [number for number, known in enumerate(recorded, 1) if known and test & known]
        if others and own is not None and not test & own:
            raise UsageError(
                f"{spec} is given as {name}, but vector {others[0]} was trained on it",
                "Give one --data per vector, in the order of the vectors.",
            )
    return tuple(None if own is None else bool(test & own) for test, own in zip(tested, recorded, strict=True))


def _fingerprints(spec: str, form: RowForm) -> frozenset[str]:
    """Return a data set's fingerprints, with and without the tag of its answers, which ``finetune`` learns."""
    return frozenset(load_data(spec, replace(form, learns_tag=tag)).fingerprint for tag in (False, True))


def _recorded(related: Related, index: int) -> frozenset[str] | None:
    """Return the fingerprints of the data sets that a vector was trained on."""
    metadata = getattr(related.operands[index].vector, "metadata", None)
    record: Any = None
    try:
        if metadata is not None:
            finetuned = parse_json(metadata.get("finetuned", "null"))
            record = finetuned.get("training") if isinstance(finetuned, dict) else None
        elif (folder := Path(related.references[index].name)).is_dir():
            record = read_provenance(folder)
    except MalformedError:
        return None  # an unreadable record is no evidence; the vector itself is checked elsewhere
    sets = record.get("data") if isinstance(record, dict) else None
    if not isinstance(sets, list):
        return None
    fingerprints = [entry.get("fingerprint") for entry in sets if isinstance(entry, dict)]
    return frozenset(fingerprint for fingerprint in fingerprints if isinstance(fingerprint, str)) or None
