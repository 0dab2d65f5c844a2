"""The folder of a run in stages: whose it is, and what may be written there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from taskarith.checkpoints.provenance import read_provenance, write_provenance
from taskarith.checkpoints.targets import check_apart, check_target
from taskarith.errors import OutputError

__all__ = ["begin_folder", "check_folder"]


def check_folder(folder: Path, kind: str, inputs: Iterable[str | Path]) -> None:
    """Refuse a folder that is not of such a run, or that holds what is read.

    :param kind: Of the run, in its record.
    :param inputs: Models and texts that the run reads.
    :raises OutputError: The folder holds something else, is or lies in an input, or cannot be written.
    """
    inputs = list(inputs)
    if not folder.is_dir() or not any(folder.iterdir()):
        check_target(folder, overwrite=True, is_folder=True, inputs=inputs)
        return
    check_apart(folder, inputs)
    record = read_provenance(folder) or {}
    if record.get("kind") != kind:
        raise OutputError(f"{folder} holds something else than a run of this command", "Name another output.")
    if record.get("cleaned"):
        raise OutputError(f"{folder} is a run whose forget data was removed by clean", "Name another output.")


def begin_folder(folder: Path, kind: str) -> None:
    """Make the folder of a run, with a record of its kind, unless it is there.

    :param kind: Of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if read_provenance(folder) is None:
        write_provenance(folder, {"kind": kind}, files=False)
