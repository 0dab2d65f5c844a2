"""Which tensors a scale's selectors name, and by what the coefficient of each is multiplied."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from taskarith.errors import UsageError, name_some
from taskarith.spec import Scales

__all__ = ["interpolate", "layer_places", "tensor_factors"]

_LAYER = re.compile(r"(?:(?P<stack>.*?)\.)?(?P<layer>\d{1,9})\.")
_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})")
_LONGEST_RANGE = 1000


def tensor_factors(scales: Scales, names: Sequence[str]) -> dict[str, float]:
    """Return the factor of every tensor that a selector names; see ``spec.parse_scales``.

    :param scales: Selectors with factors; the last that names a tensor counts.
    :param names: All tensors that can be named.
    :raises UsageError: A selector names no tensor, or a gradient names one that is in no layer.
    """
    if not scales:
        return {}
    places, whole = layer_places(names), frozenset(names)
    found: dict[str, float] = {}
    for selector, factors in scales.items():
        chosen = [selector] if selector in whole else _chosen(selector, names)
        outside = [name for name in chosen if name not in places] if len(factors) > 1 else []
        if outside:
            raise UsageError(
                f"the gradient of '{selector}' is spread over the layers, but {name_some(outside)} is in none",
                "Select the layers only, as in 'layers=0..1', and give the others a factor of their own.",
            )
        found |= {name: factors[0] if len(factors) == 1 else interpolate(factors, *places[name]) for name in chosen}
    return found


def layer_places(names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return for each tensor of a layer the number of the layer and how many there are in its stack.

    The first part of a name that is a number is the layer: an expert of a layer is not a layer.
    """
    matches = {name: match for name in names if (match := _LAYER.match(name))}
    counts: dict[str | None, int] = {}
    for match in matches.values():
        counts[match["stack"]] = max(counts.get(match["stack"], 0), int(match["layer"]) + 1)
    return {name: (int(match["layer"]), counts[match["stack"]]) for name, match in matches.items()}


def interpolate(values: Sequence[float], layer: int, layers: int) -> float:
    """Return the value of a piecewise linear gradient at one of ``layers`` layers; a single layer is the last."""
    if layer + 1 == layers:
        return values[-1]
    index, rest = divmod(layer * (len(values) - 1), layers - 1)
    share = rest / (layers - 1)
    return values[index] if not rest else (1 - share) * values[index] + share * values[index + 1]


def _chosen(selector: str, names: Sequence[str]) -> list[str]:
    patterns = _patterns(selector)
    chosen = [name for name in names if any(fnmatchcase(f".{name}.", pattern) for pattern in patterns)]
    if not chosen:
        import difflib  # here, since it is needed so rarely

        parts = dict.fromkeys(part for name in names for part in name.split(".") if not part.isdecimal())
        near = difflib.get_close_matches(selector, [*parts, *names], cutoff=0.4)
        raise UsageError(
            f"'{selector}' names no tensor of the model",
            f"Nearest are {', '.join(near)}." if near else f"The tensors are {name_some(names)}.",
        )
    return chosen


def _patterns(selector: str) -> list[str]:
    """Write ranges of numbers out, and let a selector match whole dotted parts anywhere in a name."""
    parts = []
    for part in selector.split("."):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2])) if match else (0, 0)
        if match and not 0 <= last - first < _LONGEST_RANGE:
            raise UsageError(f"'{selector}' has an empty or endless range {part}", "Write it as 'layers.0-11'.")
        parts.append([str(number) for number in range(first, last + 1)] if match else [part])
    if len([part for part in parts if len(part) > 1]) > 1:
        raise UsageError(f"'{selector}' has two ranges", "Use one range of numbers in a selector.")
    return [f"*.{'.'.join(choice)}.*" for choice in itertools.product(*parts)]
