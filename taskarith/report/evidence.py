"""What an auditor asks of a folder of results: digests of files, and what still holds the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from taskarith.checkpoints.provenance import PROVENANCE_NAME, read_provenance
from taskarith.errors import TaskarithError

__all__ = ["digests_of", "holders_of"]


def digests_of(record: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return SHA-256 by file: of the results, then of models that a record beside them has them of.

    :param record: The record of a folder of results, with absolute paths.
    :param name: What the folder is called.
    """
    found = dict(_digests(record, name))
    for model in _models(record):
        with suppress(TaskarithError, OSError):
            if (own := read_provenance(Path(model))) is not None:
                found |= _digests(own, f"{Path(model).name}, as its record says:")
    return found


def holders_of(record: Mapping[str, Any], name: str, has_samples: bool) -> tuple[str, ...]:
    """Return what is left that holds the text, or from which it can be made again.

    :param record: The record of a folder of results.
    :param name: What the folder is called.
    :param has_samples: Whether prompts and their true continuations are among its records.
    """
    held = [f"{name}/records.jsonl, and this report: prompts and true continuations, word for word"] * has_samples
    texts = [_last(one.get("spec")) for one in dict(record.get("data") or {}).values() if isinstance(one, Mapping)]
    held += [f"the text itself, in {text}" for text in dict.fromkeys(texts) if text]
    edit = record.get("edit")
    named = [*edit.get("add", []), *edit.get("negate", [])] if isinstance(edit, Mapping) else []
    vectors = [_last(one) for one in named]
    return (*held, *(f"the vector {one}: with its base it gives the fine-tune back" for one in vectors if one))


def _digests(record: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    for file, one in dict(record.get("files") or {}).items():
        if file != PROVENANCE_NAME and isinstance(one, Mapping):
            digest = one.get("sha256") or one.get("header_sha256")
            kind = "" if "sha256" in one else " (its header)"
            if digest:
                yield f"{name} {file}{kind}", str(digest)


def _models(record: Mapping[str, Any]) -> list[str]:
    models = record.get("models") or ()
    entries = models.values() if isinstance(models, Mapping) else models
    named = [one.get("name") for one in entries if isinstance(one, Mapping)]
    return [one for one in named if isinstance(one, str) and "\0" not in one]


def _last(spec: object) -> str:
    """Return what a spec names, without the folder that it lies in and the base of a vector."""
    return Path(spec.partition("@@")[0]).name if isinstance(spec, str) else ""
