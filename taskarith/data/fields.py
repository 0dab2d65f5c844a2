"""Values of a row: required text, and lists that may be written as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeGuard

from taskarith.errors import DataError

__all__ = ["filled_field", "list_field", "parse_json", "text_field"]


def text_field(row: Mapping[str, Any], column: str, where: str) -> str:
    """Return a text, which may be empty.

    :param where: Names the row in errors.
    :raises DataError: It is missing, not text, or not Unicode.
    """
    value = row.get(column)
    if not isinstance(value, str):
        fault = "missing" if value is None else f"of type {type(value).__name__}, not text"
        raise DataError(f"{column} of {where} is {fault}", "Give every row the same columns, filled with text.")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise DataError(
            f"{column} of {where} contains half of a surrogate pair", "Correct the text, which is not Unicode."
        )
    return value


def filled_field(row: Mapping[str, Any], column: str, where: str) -> str:
    """Return a text that is not blank.

    :raises DataError: It is blank.
    """
    text = text_field(row, column, where)
    if not text.strip():
        raise DataError(f"{column} of {where} is empty", "Fill it in, or remove the row.")
    return text


def list_field(row: Mapping[str, Any], column: str, where: str) -> list[dict[str, Any]]:
    """Return a list of objects, possibly empty; the list and each object may be JSON strings.

    :raises DataError: It is not such a list.
    """
    value = row.get(column)
    if isinstance(value, str):
        value = parse_json(value) if value.strip() else None
    if value is None:
        return []
    items = [parse_json(item) if isinstance(item, str) else item for item in value] if _is_list(value) else [value]
    if not _is_list(value) or not all(isinstance(item, Mapping) for item in items):
        raise DataError(
            f"{column} of {where} is not a list of objects",
            f'Write a list, as in "{column}": [{{...}}], or leave it out.',
        )
    return [dict(item) for item in items]


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, or the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _is_list(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(value, list | tuple)
