"""The folder of results: finished pieces are stored as they come, the numbers at the end."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash

from taskarith.checkpoints.provenance import release, write_provenance
from taskarith.checkpoints.team import Team
from taskarith.checkpoints.units import Units, units_of
from taskarith.errors import ReadError
from taskarith.evaluation.records import Record
from taskarith.progress import Listener

__all__ = ["Results", "complete_results", "fingerprint", "kept_results", "write_results"]

_MEASURING = ("attacks", "data", "evaluation", "models", "relations", "sweeps", "training")
_HARNESSES = ("lm-eval", "optuna")
_CHUNK = 1 << 22

Results = tuple[Path | None, Units, Mapping[str, Any]]
"""The folder to write to (None if this process writes nothing), the finished pieces, and the record of the output."""


@contextmanager
def kept_results(
    output_dir: str | Path | None,
    overwrite: bool,
    record: Callable[[], dict[str, Any]],
    *,
    inputs: Iterable[str | Path],
    read: Sequence[str] = (),
    team: Team,
    listener: Listener,
) -> Generator[Results]:
    """Open the folder of results, with what an earlier run of the same command finished; see ``units_of``.

    :param output_dir: The output folder; None to store nothing.
    :param overwrite: Replace an existing output.
    :param record: Returns inputs and arguments for ``taskarith.json``; called only if there is an output.
    :param inputs: Input paths, which the output must not overlap.
    :param read: Input files without a fingerprint in the record.
    :param team: The processes of the run; the first opens the folder.
    :param listener: Receives progress updates.
    """
    provenance: dict[str, Any] = {}

    def run() -> dict[str, Any]:
        provenance.update(record())
        arguments = {name: value for name, value in provenance["arguments"].items() if name != "processes"}
        others = {name: value for name, value in provenance.items() if name != "arguments"}
        files = {f"file {name}": fingerprint(Path(name)) for name in read}
        return {**others, **arguments, **files, "versions": [release(*_MEASURING), *map(_version, _HARNESSES)]}

    with ExitStack() as stack:
        opened: list[tuple[Path, Units]] = []

        def enter() -> None:
            target = None if output_dir is None else Path(output_dir)
            results = units_of(target, overwrite, run, inputs=inputs, listener=listener)
            opened.append(stack.enter_context(results))

        team.by_first(enter)
        folder, units = opened[0] if opened else (Path(), Units())
        yield (folder if opened and output_dir is not None else None), units, provenance


def write_results(folder: Path, results: Mapping[str, Any], records: Sequence[Record] = ()) -> None:
    """Write ``results.json`` and, if there are records, ``records.jsonl`` into a folder."""
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    if not records:
        return
    with (folder / "records.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def complete_results(
    folder: Path, record: Mapping[str, Any], target: Path, draw: Callable[[], object] | None = None
) -> None:
    """Write the record of a folder of results; what is drawn of it is part of it, and covered by its digests.

    :param folder: All else of it is there.
    :param record: What it was made from, and how.
    :param target: Where the folder will lie.
    :param draw: Adds drawings; it finds the folder with a record of all but these.
    """
    write_provenance(folder, record, target)
    if draw is not None:
        draw()
        write_provenance(folder, record, target)


def fingerprint(path: Path) -> str:
    """Return the fingerprint of a file's bytes.

    :raises ReadError: It cannot be read.
    """
    state = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                state.update(chunk)
    except OSError as error:
        raise ReadError(f"cannot read {path}: {error.strerror}", "Check the path and its permissions.") from error
    return state.hexdigest()


def _version(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None
