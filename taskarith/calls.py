"""How the verbs may be called: one text where a list is expected, and keywords by their old names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

__all__ = ["listed", "named", "renamed"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def listed(values: str | Path | Iterable[str | Path]) -> list[str]:
    """Return what may be given as one text or path, or as several."""
    return [str(one) for one in ([values] if isinstance(values, str | Path) else values)]


def named(value: str | Path | None) -> str | None:
    """Return a model or a text as it is named, where a path may be given; None stays."""
    return None if value is None else str(value)


def renamed(**names: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Return a decorator with which a function also takes keywords by their old names, with a warning.

    :param names: The new name of each old one.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(function)
        def call(*args: _P.args, **keywords: _P.kwargs) -> _R:
            for old, new in names.items():
                if old in keywords:
                    if new in keywords:
                        raise TypeError(f"{new}= is given twice: {old}= is its old name")
                    warnings.warn(f"{old}= is called {new}= now", DeprecationWarning, stacklevel=2)
            given: dict[str, Any] = {names.get(name, name): value for name, value in keywords.items()}
            return function(*args, **given)

        return call

    return decorate
