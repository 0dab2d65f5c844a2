"""Names of models and vectors in files that are kept: relative to the file, so that they tell nothing of the machine.

What was made together can be moved, mounted or sent together, and is still found. What was not is found on the same
machine by its fingerprint, under which the user's cache keeps where it lay.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from taskarith.checkpoints.cache import cache_folders, keep_file

__all__ = ["absolute_name", "absolute_names", "relative_names"]

_NAMES = frozenset({"name", "base", "tokenizer"})
"""Keys of a record whose values name a model, an adapter or a vector."""
_AS_THEY_ARE = frozenset({"tensors", "files", "chat_template", "system_prompt"})
"""Keys of what is long, or a text, in which what looks like a path is none."""
_RELATIVE = re.compile(r"(\.{1,2}|~)(/|$)")
_PATHS = re.compile(r"(?:^|(?<=[=:,@]))/[^=:,@]+")
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")
_LONGEST = 1 << 16


def relative_names(value: Any, folder: Path) -> Any:
    """Return JSON with its absolute paths relative to a folder, or to the home folder if that is somewhere else.

    Where what has a name and a fingerprint lies is kept in the cache, if that can be written. Texts that are not paths
    of something that exists, or could be made, stay as they are.

    :param value: A record.
    :param folder: Where the file will lie that holds it.
    """
    if isinstance(value, Mapping):
        _remember(value)
        return {key: one if key in _AS_THEY_ARE else relative_names(one, folder) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [relative_names(one, folder) for one in value]
    if not isinstance(value, str) or "\0" in value:
        return value
    if value.startswith("/") and os.path.lexists(value):
        return _relative(value, folder)
    return _PATHS.sub(lambda found: _relative(found[0], folder), value)


def absolute_names(value: Any, folder: Path) -> Any:
    """Return JSON whose relative names are absolute again: of what lies there, or where it lay when it was recorded.

    :param value: A record.
    :param folder: Where the file lies that holds it.
    """
    if isinstance(value, list):
        return [absolute_names(one, folder) for one in value]
    if not isinstance(value, Mapping):
        return value
    fingerprint = str(value.get("fingerprint"))
    return {
        key: one
        if key in _AS_THEY_ARE
        else absolute_name(one, folder, fingerprint if key == "name" else "")
        if key in _NAMES and isinstance(one, str)
        else absolute_names(one, folder)
        for key, one in value.items()
    }


def absolute_name(name: str, folder: Path, fingerprint: str = "") -> str:
    """Return a recorded name as an absolute path; hub ids, absolute paths and what cannot be a path stay as they are.

    :param name: As ``relative_names`` wrote it.
    :param folder: Where the file lies that holds it.
    :param fingerprint: Of what is named: if nothing is there, where it lay on this machine is returned.
    """
    if not _RELATIVE.match(name) or "\0" in name:
        return name
    with suppress(RuntimeError):  # there is no home
        path = os.path.normpath(Path(os.path.realpath(folder)) / Path(name).expanduser())
        return path if os.path.lexists(path) else _recall(fingerprint) or path
    return name


def _relative(path: str, folder: Path) -> str:
    place, beside = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if len(place.parts) < 2 or not (os.path.lexists(place) or (len(place.parts) > 2 and place.parent.is_dir())):
        return path
    with suppress(RuntimeError):
        home = Path(os.path.realpath(Path.home()))
        if place.is_relative_to(home) and not beside.is_relative_to(home):
            return f"~/{place.relative_to(home).as_posix()}"
    found = os.path.relpath(place, beside)
    return found if found.startswith("..") else f"./{found}"


def _remember(record: Mapping[str, Any]) -> None:
    name, fingerprint = record.get("name"), record.get("fingerprint")
    is_known = _FINGERPRINT.fullmatch(str(fingerprint)) and any(one != "0" for one in str(fingerprint))
    if is_known and isinstance(name, str) and name.startswith("/"):
        keep_file(cache_folders("places")[0] / str(fingerprint), os.fsencode(name))


def _recall(fingerprint: str) -> str | None:
    """Return where something lay when it was last recorded, if anything lies there now."""
    for folder in cache_folders("places") if _FINGERPRINT.fullmatch(fingerprint) else ():
        with suppress(OSError, ValueError), (folder / fingerprint).open("rb") as file:
            path = os.fsdecode(file.read(_LONGEST))
            if path.startswith("/") and os.path.lexists(path):
                return path
    return None
