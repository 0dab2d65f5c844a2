"""What `verify` takes from the record of an edit; it is read in one place, where what somebody has changed is named."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskarith.edit.edit import Edit
from taskarith.errors import CheckpointError

__all__ = ["broken_record", "read_edit", "read_prints"]


def read_prints(place: Path, record: Mapping[str, Any], side: str = "fingerprint") -> dict[str, str]:
    """Return the fingerprint of each tensor of an output, or with ``base`` of the model that was edited.

    :raises CheckpointError: The record is broken.
    """
    with broken_record(place):
        return {name: str(tensor[side]) for name, tensor in record["tensors"].items()}


def read_edit(place: Path, record: Mapping[str, Any]) -> Edit:
    """Read the edit from the record of an output.

    :raises CheckpointError: The record is broken.
    :raises UsageError: A value in it is out of range, or of another release.
    """
    with broken_record(place):
        return Edit.from_record(record)


@contextmanager
def broken_record(place: Path) -> Generator[None, None, None]:
    """Say of a value that is missing or of another type that somebody has changed the record."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"the record of {place} is broken, or of a newer release: {error!r}",
            "Restore it from where it came, or verify it with the release that it names under versions.",
        ) from error
