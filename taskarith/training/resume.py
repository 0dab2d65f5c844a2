"""The folder of a run's checkpoints beside its output: locked, checked, and complete."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from taskarith.checkpoints.checkpoint import read_json
from taskarith.checkpoints.digests import compare_folder, digest_folder
from taskarith.checkpoints.durable import replace_file, sync, sync_tree
from taskarith.checkpoints.leftovers import Hold, held
from taskarith.checkpoints.lock import LOCK_NAME, check_unlocked, uninterrupted
from taskarith.checkpoints.ownership import entry_names
from taskarith.checkpoints.rooms import work_folder
from taskarith.errors import CheckpointError, MismatchError, OutputError, name_some
from taskarith.progress import Listener
from taskarith.untrusted import MalformedError, check_fields, is_count, is_number

__all__ = [
    "FINISHED",
    "check_checkpoint",
    "check_digests",
    "check_leftover",
    "finish_checkpoint",
    "last_checkpoint",
    "training_folder",
    "working_folder",
    "write_digests",
]

FINISHED = "finished"  # a file in the checkpoint of a training that ended, and could not be published
_RUN_NAME = "run.json"
_DIGESTS_NAME = "digests.json"
_STATE_NAME = "trainer_state.json"
_START_OVER = "Start over with --overwrite."
_KEPT = "The last checkpoint is kept: run the same command with --resume to continue."


def working_folder(target: Path) -> Path:
    """Return the folder ``.NAME.training`` beside an output, or inside one that cannot be replaced."""
    return work_folder(target, "training")


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint, or None."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    complete = [path for path in checkpoints if (path / _DIGESTS_NAME).is_file()]  # written last
    return max(complete, key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _is_log(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, dict) and all(isinstance(number, int | float) for number in entry.values()) for entry in value
    )


_STATE = {
    "log_history": _is_log,
    **dict.fromkeys(("max_steps", "num_input_tokens_seen", "num_train_epochs", "train_batch_size"), is_count),
    **dict.fromkeys(("epoch", "eval_steps", "logging_steps", "save_steps", "total_flos"), is_number),
}
"""Types of the values of the Trainer's state that decide how it continues."""


def finish_checkpoint(folder: Path, *, is_last: bool = False) -> None:
    """Write the digests of a checkpoint, which complete it, and remove older checkpoints.

    :param folder: The checkpoint, with all files from all processes.
    :param is_last: The training ended here.
    """
    if is_last:
        (folder / FINISHED).touch()
    write_digests(folder)
    for other in folder.parent.glob("checkpoint-*"):
        if other != folder:
            shutil.rmtree(other)


def write_digests(folder: Path) -> None:
    """Write the digests of all files of a folder beside them, when these are on the disk."""
    sync_tree(folder)
    own = {_DIGESTS_NAME, f".{_DIGESTS_NAME}"}
    replace_file(folder / _DIGESTS_NAME, json.dumps(digest_folder(folder, own)).encode())
    sync(folder.parent)


def check_digests(folder: Path, what: str) -> None:
    """See that the files of a folder are as they were when their digests were written.

    :param what: Stands before the folder in the error.
    :raises CheckpointError: They are not.
    """
    path = folder / _DIGESTS_NAME
    try:
        recorded = read_json(path)
    except CheckpointError as error:
        raise CheckpointError(error.message, _START_OVER) from error
    if not all(isinstance(one, dict) and "sha256" in one for one in recorded.values()):  # a pipe has none
        raise CheckpointError(f"{path} does not list files of {folder.name} with their SHA-256", _START_OVER)
    found = compare_folder(folder, recorded, {_DIGESTS_NAME})
    if wrong := [*found.changed, *found.missing, *found.added]:
        raise CheckpointError(f"{what} {folder} was changed after it was written: {name_some(wrong)}", _START_OVER)


def check_checkpoint(folder: Path) -> None:
    """Check that a checkpoint is unchanged.

    :raises CheckpointError: It was changed.
    """
    check_digests(folder, "the checkpoint")
    state = read_json(folder / _STATE_NAME)
    try:
        check_fields(state, _STATE | {"global_step": lambda value: is_count(value) and value == _step(folder)})
        if not isinstance(control := state.get("stateful_callbacks"), dict) or "TrainerControl" not in control:
            raise MalformedError("'stateful_callbacks' does not say how the training was controlled")
    except MalformedError as error:
        raise CheckpointError(f"{folder / _STATE_NAME}: {error}", _START_OVER) from error


def check_leftover(target: Path, *, resume: bool, overwrite: bool, listener: Listener) -> None:
    """Refuse to start over silently if an interrupted run left checkpoints; note if there are none to resume.

    :raises OutputError: There are checkpoints without ``resume`` or ``overwrite``, or another run is in progress.
    """
    folder = working_folder(target)
    _check_ours(folder)
    check_unlocked(folder, target)
    left = last_checkpoint(folder)
    if left is not None and not (resume or overwrite):
        raise OutputError(
            f"an interrupted run left {left}", "Continue it with --resume, or start over with --overwrite."
        )
    if left is None and not overwrite and _is_of_earlier_release(folder):
        raise OutputError(
            f"the checkpoints in {folder} are from an earlier release and have no digests",
            "Continue them with that release, or start over with --overwrite.",
        )
    if left is None and resume:
        listener.note(f"there is no checkpoint for {target}; training starts from the beginning")


def _is_of_earlier_release(folder: Path) -> bool:
    """Tell checkpoints of an earlier release from incomplete ones of this release."""
    return any(folder.glob("checkpoint-*")) and "processes" not in read_json(folder / _RUN_NAME)


def _check_ours(folder: Path) -> None:
    """Refuse a folder that is not of a run, since it would be removed."""
    if not os.path.lexists(folder):
        return
    is_real = folder.is_dir() and not folder.is_symlink()
    note = folder / _RUN_NAME
    if not is_real or (entry_names(folder) - {LOCK_NAME} and (note.is_symlink() or not note.is_file())):
        raise OutputError(
            f"{folder} is not the folder of an interrupted run", "Move it away, or choose another output."
        )


@contextlib.contextmanager
def training_folder(
    target: Path, arguments: TrainingArguments, run: Mapping[str, Any], *, resume: bool
) -> Generator[Path | None]:
    """Lock and prepare the training folder of an output, yield the checkpoint to resume from, and clean up.

    The folder is removed at the end; if the run fails or is interrupted before its output stands, a folder with a
    checkpoint is kept.

    :param target: The output.
    :param arguments: The Trainer's arguments; only the first process changes the folder.
    :param run: Everything that determines the trained weights; checkpoints of another run are refused.
    :param resume: Continue from the last checkpoint, if any; otherwise old ones are removed.
    :raises MismatchError: The checkpoint belongs to another run.
    :raises OutputError: The folder cannot be written, or another run works in it.
    """
    folder, first, before = working_folder(target), arguments.process_index == 0, _inode(target)
    with _held(folder, target) if first else contextlib.nullcontext(Hold()) as hold:
        try:
            with arguments.main_process_first(local=False, desc="preparing the training folder"):
                checkpoint = last_checkpoint(folder) if resume else None
                if checkpoint is not None:
                    _check_same_run(folder / _RUN_NAME, run)
                    check_checkpoint(checkpoint)
                elif first:
                    _prepare(folder, run)
            yield checkpoint
        except BaseException as error:
            with uninterrupted(hold.notes):
                is_published = _inode(target) not in {None, before}
                hold.keep = last_checkpoint(folder) is not None and not is_published
                if hold.keep and not isinstance(error, CheckpointError | MismatchError):  # these say what to do
                    error.add_note(_KEPT)
                    hold.notes.append(_KEPT)
            raise
        hold.keep = False


def _inode(path: Path) -> int | None:
    """Return what tells a folder from another one of its name; None where there is none."""
    try:
        return path.lstat().st_ino
    except OSError:
        return None


@contextlib.contextmanager
def _held(folder: Path, target: Path) -> Generator[Hold]:
    with contextlib.ExitStack() as stack:
        with _folder_errors(folder):
            hold = stack.enter_context(held(folder, target))
        yield hold


def _prepare(folder: Path, run: Mapping[str, Any]) -> None:
    """Empty the folder, except for the lock, and record the run."""
    with _folder_errors(folder):
        for path in folder.iterdir():
            if path.name != LOCK_NAME:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (folder / _RUN_NAME).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
        sync_tree(folder)


@contextlib.contextmanager
def _folder_errors(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}: {error.strerror}",
            "Choose an output that you may write to, on a disk with free space.",
        ) from error


def _check_same_run(path: Path, run: Mapping[str, Any]) -> None:
    recorded = read_json(path)
    current = json.loads(json.dumps(run))
    changed = sorted(key for key in recorded.keys() | current.keys() if recorded.get(key) != current.get(key))
    if changed:
        differences = ", ".join(f"{key} ({recorded.get(key)} then, {current.get(key)} now)" for key in changed)
        raise MismatchError(
            f"the checkpoints in {path.parent} are from another run: {differences}",
            "Resume with the same model, data, options and number of processes, or start over with --overwrite.",
        )
