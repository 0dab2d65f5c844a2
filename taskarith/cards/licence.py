"""The licence of a base, as its own card names it: text of a stranger, of which only plain values are taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskarith.untrusted import MalformedError, parse_yaml, read_text

__all__ = ["CARD_NAME", "read_licence", "read_metadata"]

CARD_NAME = "README.md"
"""The file that the hub shows as a model's card."""

_LARGEST = 1 << 22
_METADATA = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_VALUES = {
    "license": re.compile(r"[a-z0-9][a-z0-9.-]{0,63}"),
    "license_name": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"),
    "license_link": re.compile(r"https://[A-Za-z0-9._~/%#?=&+-]{1,300}|LICENSE[A-Za-z0-9._-]{0,40}"),
}
"""What the hub takes as licence, and as the name and place of one that it does not know."""


def read_licence(folder: Path) -> dict[str, str]:
    """Return the licence that the card in a folder names, as metadata of another card; empty where it names none."""
    data = read_metadata(folder)
    found = {
        key: str(value)
        for key, pattern in _VALUES.items()
        if isinstance(value := data.get(key), str) and pattern.fullmatch(value)
    }
    return found if found.get("license") == "other" else {key: found[key] for key in found if key == "license"}


def read_metadata(folder: Path) -> Mapping[str, Any]:
    """Return the metadata of the card in a folder; empty where there is none, or none that can be read."""
    try:
        found = _METADATA.match(read_text(folder / CARD_NAME, _LARGEST))
        data = parse_yaml(found[1]) if found else None
    except MalformedError:
        return {}
    return data if isinstance(data, Mapping) else {}
