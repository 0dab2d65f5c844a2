"""From what a user calls a model to a local folder: a folder, a hub id with revision, or GGUF."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from taskarith.checkpoints.gguf import dequantize_gguf, find_gguf
from taskarith.checkpoints.packaged import DEMO_MODEL, demo_model
from taskarith.errors import CheckpointError
from taskarith.progress import SILENT, Listener
from taskarith.spec import ModelRef, exists, parse_model

__all__ = ["ResolvedModel", "cached_place", "check_model", "is_hub_id", "resolve_files", "resolve_model"]

_CACHE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
_WANTED = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "*.py",
    "*.md",
    "LICENSE*",
    "NOTICE*",
]
_UNWANTED = ["*/*.safetensors", "consolidated*", "*.bin.index.json"]
_CACHED = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})(?:/(.+))?$")


@dataclass(frozen=True)
class ResolvedModel:
    """A model that is on this machine.

    :param name: As the user named it, without the revision.
    :param revision: The commit of a hub model; None for a local one.
    :param path: The folder with ``config.json``, safetensors files and tokenizer.
    """

    name: str
    revision: str | None
    path: Path

    @property
    def recorded_name(self) -> str:
        """The name to write into provenance: a hub id, or an absolute path."""
        return self.name if self.revision else str(Path(self.name).resolve())


def resolve_model(
    model: str | PathLike[str] | ModelRef, listener: Listener = SILENT, *, is_local: bool = False
) -> ResolvedModel:
    """Find a model, downloading or dequantising it (once) where needed.

    :param model: A local folder, ``id`` or ``id@revision`` on the hub, a ``.gguf`` file, a folder with one, or
        ``smollm2-135m``, the demo's model.
    :param listener: Receives notes about downloads and conversions.
    :param is_local: Download nothing: of the hub's models only those in the cache are found.
    :raises CheckpointError: There is no such model, or it cannot be reached.
    """
    reference = model if isinstance(model, ModelRef) else parse_model(os.fspath(model))
    path = Path(reference.name)
    if reference == ModelRef(DEMO_MODEL) and not exists(path):
        reference = ModelRef(str(path := demo_model()))
    if exists(path):
        gguf = find_gguf(path)
        return ResolvedModel(reference.name, None, dequantize_gguf(gguf, listener) if gguf else path)
    check_model(reference)
    folder = _from_hub(reference, _WANTED, listener, is_local)
    return ResolvedModel(reference.name, folder.name, folder)


def check_model(model: str | ModelRef) -> None:
    """Refuse a model that is not on this machine, nor named like one on the hub, which is not asked.

    :raises CheckpointError: It is neither.
    """
    reference = model if isinstance(model, ModelRef) else parse_model(model)
    if not (exists(reference.name) or is_hub_id(reference.name) or reference == ModelRef(DEMO_MODEL)):
        raise CheckpointError(
            f"there is no model folder {model}",
            f"Check the path; a model on the hub is named ORGANISATION/NAME[@REVISION], and the demo's {DEMO_MODEL}.",
        )


def resolve_files(reference: ModelRef, names: Sequence[str], listener: Listener = SILENT) -> Path:
    """Return the folder in which files of a repository on the hub lie, as far as it has them; download them if needed.

    :param reference: The id of the repository.
    :param names: The files.
    :raises CheckpointError: There is no such repository, or it cannot be reached.
    """
    return _from_hub(reference, names, listener, is_local=False)


def cached_place(path: Path) -> str:
    """Return ``ORG/NAME@COMMIT`` or ``ORG/NAME@COMMIT:FILE`` of what lies in the hub's cache; else an empty string."""
    found = _CACHED.search(path.as_posix())
    return f"{found[1]}/{found[2]}@{found[3]}" + (f":{found[4]}" if found[4] else "") if found else ""


def is_hub_id(name: str) -> bool:
    """Whether a name could be that of a model on the hub."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _from_hub(reference: ModelRef, wanted: Sequence[str], listener: Listener, is_local: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    listener.progress(f"finding {reference}", 0, 1)
    try:
        folder = snapshot_download(
            reference.name,
            revision=reference.revision,
            allow_patterns=list(wanted),
            ignore_patterns=_UNWANTED if wanted is _WANTED else None,
            local_files_only=is_local or constants.HF_HUB_OFFLINE,  # 1.33 asks the hub for a commit unless it is told
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"access to {reference} is restricted",
            "Accept its terms on the hub and log in with: hf auth login",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"there is no folder {reference} and no such model on the hub",
            "Check the name, or log in with: hf auth login",
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{reference.name} has no revision '{reference.revision}'", "Check the revision."
        ) from error
    except Exception as error:  # those of the HTTP client depend on the release of huggingface_hub
        if isinstance(error, OSError) and error.errno in _CACHE_ERRORS:
            raise CheckpointError(
                f"{reference} cannot be stored in the hub's cache: {error.strerror}",
                "Make room for it, or name another place with HF_HOME.",
            ) from error
        raise CheckpointError(
            f"{reference} could not be loaded from the hub or its cache ({type(error).__name__})",
            "Check the name and the connection, or give a local folder; HF_HUB_OFFLINE=1 takes what is in the cache.",
        ) from error
    return Path(folder)
