"""The hub as `push` uses it: who is logged in, what a repository holds, a commit; its refusals in plain words."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskarith.checkpoints.digests import file_digest
from taskarith.errors import OutputError, TaskarithError, UsageError, name_some

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["Commit", "Hub", "check_repo"]

_HARMLESS = (".gitattributes", "README.md", "LICENSE", "NOTICE")
_LOGIN = "Make a token with write access at the hub's settings, and log in with: hf auth login"


@dataclass(frozen=True)
class Commit:
    """What was uploaded.

    :param url: The page of the repository.
    :param commit: Its commit.
    :param is_new: Whether the repository was made for it.
    :param warnings: What the hub remarked on the card.
    """

    url: str
    commit: str
    is_new: bool
    warnings: tuple[str, ...] = ()


def check_repo(repo: str) -> None:
    """Refuse what cannot be the name of a repository.

    :raises UsageError: It cannot.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    hint = "Write ORGANISATION/NAME, as in: taskarith push edited ann/my-model"
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"'{repo}' cannot be the name of a repository", hint) from error
    if repo.count("/") != 1:
        raise UsageError(f"'{repo}' does not say whose repository it is", hint)


class Hub:
    """One repository of the hub, and the user who is logged in.

    :param repo: ``ORG/NAME``.
    :param revision: A branch; None is the main one.
    :raises OutputError: The hub is switched off, cannot be reached, or does not know the user.
    """

    def __init__(self, repo: str, revision: str | None) -> None:
        from huggingface_hub import HfApi, constants, get_token

        self.repo, self.revision = repo, revision
        if constants.HF_HUB_OFFLINE:
            raise OutputError(
                "HF_HUB_OFFLINE is set, and nothing is uploaded", "Unset it: env -u HF_HUB_OFFLINE taskarith push ..."
            )
        if get_token() is None:
            raise OutputError("nobody is logged in to the hub", _LOGIN)
        self._api: HfApi = HfApi(library_name="taskarith")
        with self._errors():
            self._api.whoami()

    def check(self, files: Mapping[str, Path | bytes], private: bool) -> bool:
        """Refuse a repository that holds something else; return whether there is one.

        :param files: What is to be uploaded.
        :param private: Whether nobody else may see it.
        :raises OutputError: It holds other weights or other files, or is public.
        """
        info = self._info()
        if info is None:
            return False
        if private and not info.private:
            raise OutputError(
                f"{self.repo} exists and is public", "Make it private in its settings, or name another repository."
            )
        other = [one.rfilename for one in info.siblings or () if not _is_same(one, files)]
        if other:
            raise OutputError(
                f"{self.repo} exists and holds something else: {name_some(sorted(other))}",
                "Name a new repository; nothing there is replaced.",
            )
        return True

    def upload(self, files: Mapping[str, Path | bytes], private: bool, exists: bool) -> Commit:
        """Upload files in one commit.

        :param files: By their names in the repository.
        :param private: Make a repository that only its owners see.
        :param exists: Whether there is one, as ``check`` says.
        :raises OutputError: The hub refuses it.
        """
        from huggingface_hub import CommitOperationAdd

        adds = [CommitOperationAdd(name, data) for name, data in sorted(files.items())]
        with self._errors(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if not exists:
                self._api.create_repo(self.repo, private=private)
            if self.revision is not None:
                self._api.create_branch(self.repo, branch=self.revision, exist_ok=True)
            done = self._api.create_commit(
                self.repo, adds, commit_message="Upload with taskarith", revision=self.revision
            )
        remarks = tuple(str(one.message) for one in caught if "metadata" in str(one.message))
        return Commit(f"{self._api.endpoint}/{self.repo}", str(done.oid), not exists, remarks)

    def _info(self) -> Any:
        """Return what the hub says of the repository, or of the branch that a new one starts from; None without one."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        with self._errors():
            for revision in dict.fromkeys((self.revision, None)):
                try:
                    return self._api.model_info(self.repo, revision=revision, files_metadata=True)
                except RevisionNotFoundError:
                    continue
                except RepositoryNotFoundError:
                    return None
        return None

    @contextmanager
    def _errors(self) -> Generator[None]:
        """Say in plain words what the hub refuses, whichever library below it noticed."""
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        were_off = are_progress_bars_disabled()
        disable_progress_bars()
        try:
            yield
        except TaskarithError:
            raise
        except Exception as error:
            raise self._explained(error) from error
        finally:
            if not were_off:
                enable_progress_bars()

    def _explained(self, error: BaseException) -> OutputError:
        status, owner = _status(error), self.repo.partition("/")[0]
        why = str(error).strip().rpartition("\n")[2] or type(error).__name__
        if status == 401:
            return OutputError("the hub does not accept the token that you are logged in with", _LOGIN)
        if status == 403:
            return OutputError(
                f"your token may not write to {owner}", f"Give it write access to {owner}, or name your own account."
            )
        if status == 409:
            return OutputError(f"{self.repo} was made by somebody else meanwhile", "Run it again, or name another one.")
        if "metadata in README.md" in str(error):
            return OutputError(f"the hub refuses the card: {why}", "Please report it: the card is made by taskarith.")
        if status is not None:
            return OutputError(
                f"the hub refuses {self.repo} (status {status}): {why}",
                "Try again later." if status >= 500 or status == 429 else "Check the name and the revision.",
            )
        return OutputError(
            f"the hub cannot be reached at {self._api.endpoint}: {why}",
            "Check the connection; what was uploaded is not uploaded again.",
        )


def _status(error: BaseException | None) -> int | None:
    """Return the status of the answer that an error is about, or one that it was raised from."""
    while error is not None:
        found = getattr(getattr(error, "response", None), "status_code", None)
        if found is not None:
            return int(found)
        error = error.__cause__
    return None


def _is_same(there: Any, files: Mapping[str, Path | bytes]) -> bool:
    """Tell whether a file of a repository may stay or be replaced: weights only by the same ones."""
    name = str(there.rfilename)
    if name not in files:
        return name.startswith(_HARMLESS)
    if not name.endswith(".safetensors"):
        return True
    data = files[name]
    if there.lfs is not None:
        digest = file_digest(data) if isinstance(data, Path) else hashlib.sha256(data).hexdigest()
        return there.lfs.sha256 == digest
    content = data.read_bytes() if isinstance(data, Path) else data
    return there.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
