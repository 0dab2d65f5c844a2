"""The coefficients of a search: one for each vector, or for each vector and part of the model."""

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
    """The coefficients to search, and their bounds.

    :param edit: The edit whose coefficients are multiplied; vectors with a role are unchanged.
    :param parts: Selectors of tensors; the last one that matches a tensor counts.
    :param low: Lower bound of the factor of a coefficient.
    :param high: Upper bound.
    """

    edit: Edit
    parts: tuple[str, ...]
    low: float
    high: float

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the values, vector by vector."""
        vectors = [
            f"{number} {Path(v.name).name}" for number, v in enumerate(self.edit.operands, start=1) if not v.role
        ]
        pairs = itertools.product(vectors, self.parts)
        return tuple(vector if len(self.parts) == 1 else f"{vector} {part}" for vector, part in pairs)

    def edit_at(self, values: Sequence[float]) -> Edit:
        """Return the edit with these coefficients, or with a scale for each vector and part."""
        operands, rest = [], iter(values)
        for operand in self.edit.operands:
            if operand.role:
                operands.append(operand)
            elif len(self.parts) == 1:
                operands.append(replace(operand, coefficient=operand.coefficient * next(rest)))
            else:
                operands.append(replace(operand, scale={part: (next(rest),) for part in self.parts}))
        return replace(self.edit, operands=tuple(operands))

    def start(self, value: float) -> list[float]:
        """Return values that scale all subtracted vectors by ``value`` and leave out the added ones.

        If none is subtracted, all vectors are scaled.
        """
        added = [operand.coefficient > 0 for operand in self.edit.operands if not operand.role]
        zero = min(max(0.0, self.low), self.high)
        return [zero if is_added and not all(added) else value for is_added in added for _ in self.parts]


def find_parts(shapes: dict[str, int], by: Sequence[str]) -> tuple[str, ...]:
    """Return selectors that divide a model into parts; the first matches whatever the others do not.

    :param shapes: Number of dimensions by tensor name; a module without a matrix is not a part.
    :param by: Any of ``BY``: thirds of the depth, kinds of modules in a layer, or each kind in each third.
    :raises UsageError: A way of dividing is unknown, or the model has no layers.
    """
    if unknown := [way for way in by if way not in BY]:
        raise UsageError(f"unknown parts '{unknown[0]}'", f"Choose from {', '.join(BY)}.")
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
        raise UsageError("the layers of this model cannot be told apart", "Search without --by.")
    parts = [_ALL]
    for stack, layers in stacks.items():
        depths = [f"{first}-{last}" for first, last in _thirds(layers)] if "layer" in by else ["*"]
        for depth in depths:
            parts += (
                [f"{stack}.{depth}.{module}" for module in modules[stack]] if "module" in by else [f"{stack}.{depth}"]
            )
    return tuple(parts)


def _thirds(layers: int) -> list[tuple[int, int]]:
    count = min(_THIRDS, layers)
    ends = [layers * number // count for number in range(count + 1)]
    return [(first, after - 1) for first, after in itertools.pairwise(ends)]
