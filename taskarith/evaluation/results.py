"""The folder of measured results: what is finished is in it as it comes, and the numbers when all is done."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash

from taskarith.checkpoints.provenance import release
from taskarith.checkpoints.team import Team
from taskarith.checkpoints.units import Units, units_of
from taskarith.errors import ReadError
from taskarith.evaluation.records import Record
from taskarith.progress import Listener

__all__ = ["Results", "kept_results", "write_results"]

_MEASURING = ("attacks", "data", "evaluation", "models", "relations", "sweeps", "training")
_HARNESSES = ("lm-eval", "optuna")
_PIECE = 1 << 22

Results = tuple[Path | None, Units, Mapping[str, Any]]
"""The folder to write into (None where this process writes nothing), what is finished, and the record of the output."""


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
    """Open the folder of results, and find what an earlier run of the same command has finished; see ``units_of``.

    :param output_dir: The output; None is none, and nothing is kept.
    :param overwrite: Replace an output that is there.
    :param record: Gives what the results are made from and how, for ``taskarith.json``; only asked with an output.
    :param inputs: What is read; the output may not lie there.
    :param read: Files of which the record has no fingerprint.
    :param team: The processes of the run; the first one has the folder.
    :param listener: Receives progress updates.
    """
    made: dict[str, Any] = {}

    def run() -> dict[str, Any]:
        made.update(record())
        arguments = {name: value for name, value in made["arguments"].items() if name != "processes"}
        others = {name: value for name, value in made.items() if name != "arguments"}
        files = {f"file {name}": _fingerprint(Path(name)) for name in read}
        return {**others, **arguments, **files, "versions": [release(*_MEASURING), *map(_version, _HARNESSES)]}

    with ExitStack() as stack:
        opened: list[tuple[Path, Units]] = []

        def enter() -> None:
            target = None if output_dir is None else Path(output_dir)
            found = units_of(target, overwrite, run, inputs=inputs, listener=listener)
            opened.append(stack.enter_context(found))

        team.by_first(enter)
        folder, units = opened[0] if opened else (Path(), Units())
        yield (folder if opened and output_dir is not None else None), units, made


def write_results(folder: Path, results: Mapping[str, Any], records: Sequence[Record]) -> None:
    """Write ``results.json`` and ``records.jsonl`` into a folder."""
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    with (folder / "records.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def _fingerprint(path: Path) -> str:
    state = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                state.update(piece)
    except OSError as error:
        raise ReadError(f"cannot read {path}: {error.strerror}", "Check the path and its permissions.") from error
    return state.hexdigest()


def _version(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None
