"""The coefficients that a search looks for: one for each vector, or one for each vector and part of the model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from taskarith.edit.edit import Edit
from taskarith.edit.scales import layer_places
from taskarith.errors import UsageError

__all__ = ["BY", "Space", "find_parts"]

BY = ("layer", "module")
_ALL = "*"
_THIRDS = 3


@dataclass(frozen=True)
class Space:
    """What may be set, and between which bounds.

    :param edit: Whose coefficients are multiplied; vectors of a role stay as they are.
    :param parts: Selectors of tensors; of several that name a tensor the last counts.
    :param low: The least that a coefficient is multiplied by.
    :param high: The most.
    """

    edit: Edit
    parts: tuple[str, ...]
    low: float
    high: float

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each value, vector by vector."""
        vectors = [
            f"{number} {Path(one.name).name}" for number, one in enumerate(self.edit.operands, start=1) if not one.role
        ]
        pairs = itertools.product(vectors, self.parts)
        return tuple(vector if len(self.parts) == 1 else f"{vector} {part}" for vector, part in pairs)

    def edit_at(self, values: Sequence[float]) -> Edit:
        """Return the edit with these coefficients, or with a scale of its own for each vector and part."""
        found, rest = [], iter(values)
        for one in self.edit.operands:
            if one.role:
                found.append(one)
            elif len(self.parts) == 1:
                found.append(replace(one, coefficient=one.coefficient * next(rest)))
            else:
                found.append(replace(one, scale={part: (next(rest),) for part in self.parts}))
        return replace(self.edit, operands=tuple(found))

    def start(self, value: float) -> list[float]:
        """Return values that multiply all vectors that are taken away by one, and leave out the others.

        If none is taken away, all of them are multiplied.
        """
        added = [one.coefficient > 0 for one in self.edit.operands if not one.role]
        inside = min(max(0.0, self.low), self.high)
        return [inside if is_added and not all(added) else value for is_added in added for _ in self.parts]


def find_parts(shapes: dict[str, int], by: Sequence[str]) -> tuple[str, ...]:
    """Return selectors that part a model; the first one stands for what is in none of the others.

    :param shapes: Names of tensors, and the number of their dimensions: a module without a matrix is no part.
    :param by: Any of ``BY``: thirds of the depth, kinds of modules in a layer, or each kind in each third.
    :raises UsageError: There is no such way to part a model, or it has no layers.
    """
    if strange := [way for way in by if way not in BY]:
        raise UsageError(f"unknown parts '{strange[0]}'", f"Choose of {', '.join(BY)}.")
    if not by:
        return (_ALL,)
    stacks: dict[str, int] = {}
    modules: dict[str, dict[str, None]] = {}
    for name, (layer, layers) in layer_places(shapes).items():
        stack, _, rest = name.partition(f".{layer}.")
        if rest and shapes[name] > 1:
            stacks[stack] = layers
            modules.setdefault(stack, {})[rest.partition(".")[0]] = None
    if not stacks:
        raise UsageError("this model has no layers that can be told apart", "Search without --by.")
    parts = [_ALL]
    for stack, layers in stacks.items():
        places = [f"{first}-{last}" for first, last in _thirds(layers)] if "layer" in by else ["*"]
        for place in places:
            parts += (
                [f"{stack}.{place}.{module}" for module in modules[stack]] if "module" in by else [f"{stack}.{place}"]
            )
    return tuple(parts)


def _thirds(layers: int) -> list[tuple[int, int]]:
    count = min(_THIRDS, layers)
    ends = [layers * number // count for number in range(count + 1)]
    return [(first, after - 1) for first, after in itertools.pairwise(ends)]
