"""Two models whose tensors differ in their names alone: what has to be replaced to make them the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Renaming", "find_renaming"]

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Parts of names that torch.compile, FSDP and activation checkpointing put in."""

_TWICE = re.compile(r"(?:^|\.)([^.]+)\.\1(?=\.)")
_MOST_PREFIXES = 4
_MOST_KEPT = 5


@dataclass(frozen=True)
class Renaming:
    """How names have to be changed.

    :param pairs: What is replaced, and by what.
    :param anywhere: Replace it wherever it stands; False: the first that a name begins with.
    :param remark: What is odd about the names, as the end of a sentence about them.
    :param kept: Names that stay as they are.
    """

    pairs: tuple[tuple[str, str], ...]
    anywhere: bool
    remark: str
    kept: tuple[str, ...] = ()

    def __call__(self, name: str) -> str:
        """Return the new name."""
        if name in self.kept:
            return name
        if self.anywhere:
            for old, new in self.pairs:
                name = name.replace(old, new)
            return name
        return next((new + name[len(old) :] for old, new in self.pairs if name.startswith(old)), name)

    @property
    def code(self) -> str:
        """Python that turns a name ``k`` into the new one; without single quotes."""
        pairs = json.dumps(self.pairs)
        if self.anywhere:
            return "k" + "".join(f".replace({json.dumps(old)}, {json.dumps(new)})" for old, new in self.pairs)
        return f"next((q + k[len(p):] for p, q in {pairs} if k.startswith(p)), k)"


def find_renaming(
    names: Sequence[str], others: Collection[str], common: Sequence[str], fits: Callable[[Renaming], bool]
) -> Renaming | None:
    """Find what turns some names into others.

    :param names: Names that only one side has.
    :param others: Names that only the other side has.
    :param common: Names that both have.
    :param fits: Tells whether that would make the two correspond.
    """
    return next((found for found in _candidates(names, others, common) if fits(found)), None)


def _candidates(names: Sequence[str], others: Collection[str], common: Sequence[str]) -> Iterator[Renaming]:
    wrappers = [part for part in _WRAPPERS if any(part in name for name in names)]
    if wrappers:
        yield Renaming(
            tuple((part, "") for part in wrappers),
            True,
            f"have {' and '.join(map(repr, wrappers))} in them, which torch.compile or a wrapper puts there",
        )
    twice = dict.fromkeys(match[1] for name in names if (match := _TWICE.search(name)))
    if twice:
        first = next(iter(twice))
        pairs = tuple((f"{part}.{part}", part) for part in twice)
        yield Renaming(pairs, True, f"have a part twice, as '{first}.{first}'")
    prefixes = _prefixes(names, others)
    kept = tuple(common) if any(not old for old, _ in prefixes) else ()
    if prefixes and len(kept) <= _MOST_KEPT:
        shown = [_remark(old, new) for old, new in prefixes]
        yield Renaming(prefixes, False, ", and ".join(shown), kept)


def _remark(old: str, new: str) -> str:
    if not old:
        return f"lack '{new}' in front"
    return f"begin with '{old}'" + (f" in place of '{new}'" if new else "")


def _prefixes(names: Sequence[str], others: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Find the prefixes that turn names into others, one after the other, each for as many names as possible."""
    left, free, pairs = list(names), set(others), list[tuple[str, str]]()
    while left and free and len(pairs) < _MOST_PREFIXES:
        old, new = _prefix(left, free)
        moved = {name: new + name[len(old) :] for name in left if name.startswith(old)}
        moved = {name: to for name, to in moved.items() if to in free}
        if not moved:
            break
        pairs.append((old, new))
        left, free = [name for name in left if name not in moved], free - set(moved.values())
    return tuple(sorted(pairs, key=lambda pair: -len(pair[0])))


def _prefix(names: Sequence[str], others: Collection[str]) -> tuple[str, str]:
    """Compare the first name with the one of the others that has the longest end in common with it."""
    first = names[0].split(".")
    length, nearest = max((_common_end(first, other.split(".")), other) for other in sorted(others))
    parts = nearest.split(".")
    old, new = first[: len(first) - length], parts[: len(parts) - length]
    return "".join(f"{part}." for part in old), "".join(f"{part}." for part in new)


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
