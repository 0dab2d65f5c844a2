"""The verb `push`: upload a model, an adapter or a task vector to the hub, after its record was verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.errors import CheckpointError, MismatchError, UsageError
from taskarith.hub.connection import Hub, check_repo
from taskarith.hub.measured import measured_card
from taskarith.hub.staging import Staged, check_private, folder_record, stage_folder, stage_vector
from taskarith.inspection.verify import verify
from taskarith.inspection.verify_record import broken_record
from taskarith.progress import SILENT, Listener

__all__ = ["PushResult", "push"]


@dataclass(frozen=True)
class PushResult:
    """What was uploaded.

    :param path: The folder or file.
    :param repo: The repository, ``ORG/NAME``.
    :param url: Its page.
    :param commit: The commit.
    :param is_new: Whether the repository was made for it.
    :param files: Names of the files.
    :param nbytes: Their size.
    :param remarks: What the user should know.
    """

    path: Path
    repo: str
    url: str
    commit: str
    is_new: bool
    files: tuple[str, ...]
    nbytes: int
    remarks: tuple[str, ...] = ()


def push(
    path: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    results: str | Path | None = None,
    listener: Listener = SILENT,
) -> PushResult:
    """Upload an output of taskarith to the hub in one commit.

    Nothing that the repository holds is replaced by something else: it must be new, or hold the same weights.

    :param path: A model or adapter folder, or a task vector file.
    :param repo: The repository, ``ORG/NAME``; it is made if there is none.
    :param private: Make a repository that only its owners see.
    :param revision: Upload to this branch, which is made if there is none.
    :param results: Folder of an evaluation of this model, whose numbers are put on its card.
    :param listener: Receives progress updates.
    :raises UsageError: The path holds something else, or the name cannot be that of a repository.
    :raises MismatchError: The output is not as it was written, or the results are of another model.
    :raises OutputError: Nobody is logged in, or the hub cannot be reached, or refuses it.
    """
    target = Path(path)
    check_repo(repo)
    if not target.exists():
        raise CheckpointError(f"there is no folder or file {target}", "Check the path.")
    record = None if target.is_file() else folder_record(target)
    if record is None and results is not None:
        raise UsageError("a task vector has no results of its own", "Leave out --results, or name the edited model.")
    hub = Hub(repo, revision)
    check = verify(target, listener=listener)
    if not check.is_sound:
        raise MismatchError(
            f"{target} is not as it was written, and is not published", f"See what changed: taskarith verify {target}"
        )
    with broken_record(target):
        staged = _stage(target, record, repo, results)
    remarks = check_private(staged)
    exists = hub.check(staged, private)
    listener.progress(f"uploading to {repo}", 0, 1)
    done = hub.upload(staged, private, exists)
    listener.progress(f"uploading to {repo}", 1, 1)
    size = sum(len(data) if isinstance(data, bytes) else data.stat().st_size for data in staged.values())
    return PushResult(
        target, repo, done.url, done.commit, done.is_new, tuple(sorted(staged)), size, (*remarks, *done.warnings)
    )


def _stage(target: Path, record: dict[str, Any] | None, repo: str, results: str | Path | None) -> Staged:
    if record is None:
        return stage_vector(target, repo)
    return stage_folder(target, record, measured_card(target, record, Path(results), repo) if results else "")
