"""Names of models and vectors that anybody may read: hub ids, and of paths the last part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

__all__ = ["hub_id", "public_name"]

_ID = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
_ON_HUB = re.compile(rf"({_ID})@([\w./-]+)(:[\w./-]+)?", re.ASCII)
_HUB_ID = re.compile(_ID, re.ASCII)


def hub_id(record: object) -> str:
    """Return the id of what a record names, if it is known to be on the hub: it has a revision; empty otherwise.

    :param record: A map with a ``name``, and with a ``revision`` in it or beside it.
    """
    if not isinstance(record, Mapping):
        return ""
    name, revision = str(record.get("name") or ""), record.get("revision")
    if revision and _HUB_ID.fullmatch(name):
        return name
    found = _ON_HUB.fullmatch(name)
    return found[1] if found else ""


def public_name(record: Mapping[str, Any]) -> str:
    """Return how what a record names is called where nobody knows the machine that wrote it."""
    name, revision = str(record.get("name") or ""), record.get("revision")
    if hub_id(record):
        return f"{name}@{revision}" if revision else name
    return PurePath(name).name or "a model"
