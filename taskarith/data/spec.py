"""Parsers of the data that users name: data sets and benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from taskarith.calls import listed
from taskarith.errors import UsageError
from taskarith.spec import exists

__all__ = ["BenchmarkRef", "DataRef", "is_pattern", "named_data", "parse_benchmark", "parse_data", "parse_named_data"]


@dataclass(frozen=True)
class DataRef:
    """A data set as the user named it: a local path with a column, or an id with config, split and column."""

    name: str
    config: str | None = None
    split: str | None = None
    column: str | None = None

    def __str__(self) -> str:
        parts = [self.column] if exists(self.name) else [self.config, self.split, self.column]
        while parts and parts[-1] is None:
            parts.pop()
        return ":".join([self.name, *(part or "" for part in parts)])


@dataclass(frozen=True)
class BenchmarkRef:
    """A public benchmark as the user named it.

    :param name: ``tofu``, ``muse-books`` or ``muse-news``.
    :param split: TOFU's forget set, such as ``forget10``; empty for the others.
    :param folder: A local copy in the benchmark's own layout; None for the hub.
    """

    name: str
    split: str
    folder: Path | None

    def __str__(self) -> str:
        name = f"{self.name}:{self.split}" if self.split else self.name
        return f"{name}={self.folder}" if self.folder else name


def parse_data(text: str) -> DataRef:
    """Read a data set: ``file[:column]`` or ``id[:config[:split[:column]]]``; empty parts take defaults.

    A file may be a folder, or a pattern as in ``docs/*.txt``.

    :raises UsageError: It has too many parts, or no name.
    """
    if not text.strip():  # as a path it would be the current folder
        raise UsageError("the name of a data set is empty", "Give a file, a folder or a hub id; is a variable not set?")
    if exists(text):
        return DataRef(text)
    name, *parts = text.split(":")
    if name and (exists(name) or is_pattern(name)):
        if len(parts) > 1:
            raise UsageError(f"data '{text}' has too many parts", "Write a local file as FILE or FILE:COLUMN")
        return DataRef(name, column=(parts[0] or None) if parts else None)
    if len(parts) > 3 or not name:
        raise UsageError(f"cannot read data '{text}'", "Write FILE[:COLUMN] or ID[:CONFIG[:SPLIT[:COLUMN]]]")
    config, split, column = [part or None for part in (*parts, "", "", "")[:3]]
    return DataRef(name, config, split, column)


def is_pattern(name: str) -> bool:
    """Tell whether a name stands for several files, as in ``docs/*.txt``; no id of the hub has such characters."""
    return not exists(name) and any(character in name for character in "*?[")


def parse_named_data(texts: Iterable[str]) -> dict[str, str]:
    """Read ``name=SPEC`` arguments; a bare SPEC is named after its file.

    :raises UsageError: Two data sets have the same name, or a part is empty.
    """
    named: dict[str, str] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        if not equals or exists(text):
            name, spec = Path(text.split(":")[0]).stem, text
        if not name or not spec:
            raise UsageError(f"cannot read data '{text}'", "Write --data name=FILE, as in --data forget=forget.txt")
        if name in named:
            raise UsageError(f"two data sets are named '{name}'", "Give each its own name, as in --data other=FILE")
        named[name] = spec
    return named


def named_data(data: Mapping[str, str] | str | Path | Iterable[str | Path]) -> dict[str, str]:
    """Return data sets by name; those without a name are read as ``parse_named_data`` reads them.

    :raises UsageError: Two data sets have the same name, or a part is empty.
    """
    if isinstance(data, Mapping):
        return {str(name): str(spec) for name, spec in data.items()}
    return parse_named_data(listed(data))


_BENCHMARKS = {"tofu": ("forget10", "forget05", "forget01"), "muse-books": ("",), "muse-news": ("",)}
"""Benchmarks and their splits; the first split is the default."""


def parse_benchmark(text: str) -> BenchmarkRef:
    """Read ``tofu[:SPLIT][=FOLDER]``, ``muse-books[=FOLDER]`` or ``muse-news[=FOLDER]``.

    :raises UsageError: The benchmark or split is unknown, or the folder's name is empty.
    """
    benchmark, equals, folder = text.partition("=")
    name, colon, split = benchmark.partition(":")
    if name not in _BENCHMARKS or (equals and not folder) or (colon and split not in _BENCHMARKS[name]):
        known = ", ".join(name for name in _BENCHMARKS)
        raise UsageError(
            f"unknown benchmark '{text}'",
            f"Use one of {known}; tofu:forget01, :forget05 or :forget10 for a split of TOFU; =FOLDER for a local copy.",
        )
    return BenchmarkRef(name, split or _BENCHMARKS[name][0], Path(folder) if folder else None)
