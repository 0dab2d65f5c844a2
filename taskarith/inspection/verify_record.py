"""Reading of an edit's record for `verify`, with errors for a changed record."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskarith.edit.edit import Edit
from taskarith.errors import CheckpointError

__all__ = ["broken_record", "read_edit", "read_fingerprints"]


def read_fingerprints(path: Path, record: Mapping[str, Any], side: str = "fingerprint") -> dict[str, str]:
    """Return the recorded fingerprints of an output's tensors or, with ``base``, of the edited model's.

    :raises CheckpointError: The record is broken.
    """
    with broken_record(path):
        return {name: str(tensor[side]) for name, tensor in record["tensors"].items()}


def read_edit(path: Path, record: Mapping[str, Any]) -> Edit:
    """Read the edit from the record of an output.

    :raises CheckpointError: The record is broken.
    :raises UsageError: A value is out of range, or from another release.
    """
    with broken_record(path):
        return Edit.from_record(record)


@contextmanager
def broken_record(path: Path) -> Generator[None, None, None]:
    """Turn missing values and wrong types into an error about the record."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"the record of {path} is broken, or from a newer release: {error!r}",
            "Restore it from its source, or verify it with the release named under versions.",
        ) from error
