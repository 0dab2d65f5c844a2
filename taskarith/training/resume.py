"""The folder beside the output in which a run keeps its checkpoints until it has published, and finds them again."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from taskarith.checkpoints.checkpoint import read_json
from taskarith.errors import MismatchError, OutputError
from taskarith.progress import Listener

__all__ = ["check_leftover", "last_checkpoint", "training_folder", "working_folder"]

_RUN_NAME = "run.json"
_STATE_NAME = "trainer_state.json"


def working_folder(target: Path) -> Path:
    """Return the sibling folder ``.NAME.training`` of an output."""
    return target.with_name(f".{target.name}.training")


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end, or None."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    whole = [path for path in found if (path / _STATE_NAME).exists()]  # the Trainer writes this file last
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def check_leftover(target: Path, *, resume: bool, overwrite: bool, listener: Listener) -> None:
    """Refuse to start over silently where an interrupted run left checkpoints; say so where there are none to resume.

    :raises OutputError: There are checkpoints, and neither ``resume`` nor ``overwrite``.
    """
    left = last_checkpoint(working_folder(target))
    if left is not None and not (resume or overwrite):
        raise OutputError(
            f"an interrupted run left {left}", "Continue it with --resume, or start over with --overwrite."
        )
    if left is None and resume:
        listener.note(f"there is no checkpoint for {target}: training starts at the beginning")


@contextlib.contextmanager
def training_folder(
    folder: Path, arguments: TrainingArguments, run: Mapping[str, Any], *, resume: bool
) -> Generator[Path | None]:
    """Prepare the folder, give the checkpoint to resume from, and tidy up.

    The folder is removed at the end; where the run fails or is interrupted, it stays if it holds a checkpoint.

    :param folder: From ``working_folder``.
    :param arguments: Those of the Trainer; only the first process touches the folder.
    :param run: What determines the trained weights; a checkpoint of another run is refused.
    :param resume: Continue at the last checkpoint, where there is one; otherwise old ones are removed.
    :raises MismatchError: The checkpoint belongs to another run.
    :raises OutputError: The folder cannot be written.
    """
    first = arguments.process_index == 0
    with arguments.main_process_first(local=False, desc="preparing the training folder"):
        checkpoint = last_checkpoint(folder) if resume else None
        if checkpoint is not None:
            _check_same_run(folder / _RUN_NAME, run)
        elif first:
            _prepare(folder, run)
    try:
        yield checkpoint
    except BaseException:
        if first and last_checkpoint(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if first:
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(folder: Path, run: Mapping[str, Any]) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / _RUN_NAME).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}: {error.strerror}", "Name an output that you may write, on a disk with space."
        ) from error


def _check_same_run(path: Path, run: Mapping[str, Any]) -> None:
    then = read_json(path)
    now = json.loads(json.dumps(run))
    changed = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
    if changed:
        differences = ", ".join(f"{key} ({then.get(key)} then, {now.get(key)} now)" for key in changed)
        raise MismatchError(
            f"the checkpoints in {path.parent} are of another run: {differences}",
            "Resume with the same model, data and options, or start over with --overwrite.",
        )
