"""The table of merge methods, and a method with its parameters.

A method is one row: its operator, source, parameters with defaults, and what it needs. Options of the command line,
recipes, mergekit's files and the reference are read from it. Conventions are told where an operator calculates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from taskarith.errors import UsageError
from taskarith.merging.row import REQUIRED, Mergekit, MethodRow, between_two, of_several, weighted_mean
from taskarith.untrusted import MalformedError, check_fields

__all__ = ["LINEAR", "METHODS", "PARAMETERS", "Method", "check_operands", "parse_method", "users"]

_DENSITY, _NORMALIZE = {"density": REQUIRED}, {"normalize": None}
_RANDOM = {"rescale": True, "seed": 42}
_KEPT = {"density": "density"}

METHODS: dict[str, MethodRow] = {
    "linear": MethodRow("", "arXiv:2212.04089", mergekit=Mergekit("task_arithmetic", normalize=False)),
    "ties": MethodRow(
        "ties_dare.ties",
        "arXiv:2306.01708",
        _DENSITY | _NORMALIZE,
        mergekit=Mergekit(normalize=True, parameters=_KEPT),
    ),
    "dare_linear": MethodRow(
        "ties_dare.dare_linear",
        "arXiv:2311.03099",
        _DENSITY | _NORMALIZE | _RANDOM,
        mergekit=Mergekit(normalize=False, rescale=True, parameters=_KEPT),
    ),
    "dare_ties": MethodRow(
        "ties_dare.dare_ties",
        "arXiv:2311.03099",
        _DENSITY | _NORMALIZE | _RANDOM,
        mergekit=Mergekit(normalize=False, rescale=True, parameters=_KEPT),
    ),
    "della": MethodRow(
        "ties_dare.della",
        "arXiv:2406.11617",
        _DENSITY | {"epsilon": 0.15} | _NORMALIZE | _RANDOM,
        mergekit=Mergekit(normalize=True, rescale=True, parameters=_KEPT | {"epsilon": "epsilon"}),
    ),
    "della_linear": MethodRow(
        "ties_dare.della_linear",
        "arXiv:2406.11617",
        _DENSITY | {"epsilon": 0.15} | _NORMALIZE | _RANDOM,
        mergekit=Mergekit(normalize=False, rescale=True, parameters=_KEPT | {"epsilon": "epsilon"}),
    ),
    "breadcrumbs": MethodRow(
        "ties_dare.breadcrumbs",
        "arXiv:2312.06795",
        _DENSITY | {"gamma": 0.01} | _NORMALIZE,
        mergekit=Mergekit(normalize=False, parameters=_KEPT | {"gamma": "gamma"}),
    ),
    "breadcrumbs_ties": MethodRow(
        "ties_dare.breadcrumbs_ties",
        "arXiv:2312.06795",
        _DENSITY | {"gamma": 0.01} | _NORMALIZE,
        mergekit=Mergekit(normalize=False, parameters=_KEPT | {"gamma": "gamma"}),
    ),
    "slerp": MethodRow(
        "slerp_stock.Slerp",
        "Shoemake 1985",
        check=between_two,
        mergekit=Mergekit(weights="t", models=(2, 2), merges_base=True),
    ),
    "nuslerp": MethodRow(
        "slerp_stock.NuSlerp",
        "Shoemake 1985",
        check=between_two,
        mergekit=Mergekit(
            fixed={"nuslerp_row_wise": False, "nuslerp_flatten": True},
            models=(3, 3),
            without_base=(
                "nuslerp without a base_model is not supported",
                "Name one, or use slerp: it goes straight between models whose angle is below 2 degrees.",
            ),
        ),
    ),
    "karcher": MethodRow(
        "slerp_stock.Karcher",
        "Karcher 1977",
        check=weighted_mean,
        mergekit=Mergekit(weights="", fixed={"max_iter": 10, "tol": 1e-5}, merges_base=True, needs_base=False),
    ),
    "model_stock": MethodRow(
        "slerp_stock.ModelStock",
        "arXiv:2403.19522",
        check=of_several,
        mergekit=Mergekit(weights="", fixed={"filter_wise": False}, models=(3, float("inf"))),
    ),
    "sce": MethodRow(
        "sce.Sce",
        "arXiv:2408.07990",
        {"density": 1.0},
        check=of_several,
        mergekit=Mergekit(weights="", parameters={"density": "select_topk"}),
    ),
    "tsv": MethodRow("spectral.Tsv", "arXiv:2412.00081", needs="matrices"),
    "iso_c": MethodRow("spectral.IsoC", "arXiv:2502.04959", needs="matrices"),
    "wudi": MethodRow("spectral.Wudi", "arXiv:2503.08099", needs="matrices"),
    "core_space": MethodRow("core_space.core_space", "arXiv:2509.17786", _DENSITY, needs="factors"),
    "low_rank": MethodRow("spectral.LowRank", "arXiv:2504.10957", {"rank": REQUIRED}, needs="matrices"),
    "rows": MethodRow("ties_dare.rows", "arXiv:2504.10957", _DENSITY),
    "negmerge": MethodRow("forgetting.NegMerge", "arXiv:2410.05583"),
    "project": MethodRow("forgetting.Project", "arXiv:2512.22511", role="protect"),
    "perta": MethodRow("forgetting.PerParameter", "arXiv:2601.22030", role="weights"),
}
"""The merge methods by name."""

_ROLE_HINTS = {
    "protect": "Name the vectors of what is to be kept, as in --protect other.safetensors",
    "weights": "Name a weight for each parameter: taskarith importance MODEL --forget ... --retain ... -o FILE",
}


def users(parameter: str) -> str:
    """Return the names of the methods that have a parameter, in a line."""
    return ", ".join(name for name, row in METHODS.items() if parameter in row.parameters)


@dataclass(frozen=True)
class Method:
    """A method and its parameters; None where it has no such parameter.

    :param name: One of ``METHODS``.
    :param density: Share of the elements of each delta that is kept, in (0, 1].
    :param gamma: Share of the largest elements that is left out.
    :param epsilon: How much the probability to be kept varies with the rank of an element, up and down.
    :param normalize: Divide by the sum of coefficients (True), by nothing (False), or do as the paper does (None).
    :param rescale: Divide what is kept at random by the probability to be kept.
    :param seed: Of the random masks.
    :param rank: Number of singular values of each matrix that are kept.
    """

    name: str = "linear"
    density: float | None = None
    gamma: float | None = None
    epsilon: float | None = None
    normalize: bool | None = None
    rescale: bool | None = None
    seed: int | None = None
    rank: int | None = None

    @property
    def is_linear(self) -> bool:
        """Whether the result is base + sum of coefficient * delta."""
        return self.name == "linear"

    @property
    def needs_whole_tensors(self) -> bool:
        """Whether all elements of a matrix have to be in memory together."""
        return METHODS[self.name].needs == "matrices"

    @property
    def needs_factors(self) -> bool:
        """Whether all operands have to be LoRA adapters."""
        return METHODS[self.name].needs == "factors"

    @property
    def needs_torch(self) -> bool:
        """Whether torch takes singular values."""
        return self.needs_whole_tensors or self.needs_factors

    def record(self) -> dict[str, Any]:
        """Return the name and the parameters that it has: what ``parse_method`` takes."""
        return {key: value for key, value in asdict(self).items() if value is not None}


LINEAR = Method()

PARAMETERS = tuple(field.name for field in fields(Method) if field.name != "name")
"""All that a method can have."""

_TYPES: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("density", "gamma", "epsilon"), lambda value: isinstance(value, int | float)),
    **dict.fromkeys(("normalize", "rescale"), lambda value: isinstance(value, bool)),
    **dict.fromkeys(("seed", "rank"), lambda value: type(value) is int and abs(value) < 1 << 63),
}


def parse_method(
    name: str = "linear",
    *,
    density: float | None = None,
    gamma: float | None = None,
    epsilon: float | None = None,
    normalize: bool | None = None,
    rescale: bool | None = None,
    seed: int | None = None,
    rank: int | None = None,
) -> Method:
    """Check a method and its options, and fill in defaults; mergekit's names, and upper case, are understood.

    :raises UsageError: The method is unknown, an option is missing, is none of the method's, or out of range.
    """
    known = {row.mergekit.name: own for own, row in METHODS.items() if row.mergekit is not None and row.mergekit.name}
    spelled = str(name).lower().replace("-", "_")
    name = known.get(spelled, spelled if spelled in METHODS else name)
    if name not in METHODS:
        raise UsageError(f"unknown method '{name}'", f"Choose one of {', '.join(METHODS)}.")
    defaults = METHODS[name].parameters
    given: dict[str, Any] = {
        "density": density,
        "gamma": gamma,
        "epsilon": epsilon,
        "normalize": normalize,
        "rescale": rescale,
        "seed": seed,
        "rank": rank,
    }
    try:
        check_fields(given, _TYPES)
    except MalformedError as error:
        raise UsageError(f"method {name}: {error}", "Write numbers as 0.5, and normalize: true or false.") from error
    for option, value in given.items():
        if value is not None and option not in defaults:
            raise UsageError(f"method {name} has no {option}", f"Leave out --{option}; it belongs to {users(option)}.")
    if defaults.get("density") is REQUIRED and density is None:
        raise UsageError(f"method {name} needs a density", "Give the share to keep, as in --density 0.2")
    if "rank" in defaults and (rank is None or rank < 1):
        raise UsageError(f"method {name} needs a rank of 1 or more", "Give it, as in --rank 16")
    filled = {key: given[key] if given[key] is not None else default for key, default in defaults.items()}
    _check_ranges(filled)
    return Method(name, **filled)


def _check_ranges(options: dict[str, Any]) -> None:
    density, gamma, epsilon = (options.get(key) for key in ("density", "gamma", "epsilon"))
    if density is not None and not 0 < density <= 1:
        raise UsageError(f"density is {density}", "Give the share to keep: above 0, at most 1.")
    if gamma is not None and not 0 <= gamma < 1:
        raise UsageError(f"gamma is {gamma}", "Give the share of outliers to leave out: from 0 to below 1.")
    room = 0.0 if density is None else min(density, 1 - density)
    if epsilon is not None and not (0 <= epsilon < room or (density == 1 and epsilon >= 0)):
        raise UsageError(
            f"epsilon is {epsilon} with density {density}",
            "Probabilities from density - epsilon to density + epsilon must lie between 0 and 1: use another --epsilon",
        )
    if options.get("seed") is not None and options["seed"] < 0:
        raise UsageError(f"seed is {options['seed']}", "Give 0 or more.")


def check_operands(
    method: Method, coefficients: Sequence[float], kinds: Sequence[str], roles: Sequence[str] = ()
) -> None:
    """Refuse operands that a method is not defined on.

    :param method: The method.
    :param coefficients: Of each operand that is added, sign included.
    :param kinds: Of each such operand's vector.
    :param roles: Of each operand that is not added: ``protect`` or ``weights``.
    :raises UsageError: Too many or too few, a sign or a kind that it cannot use.
    """
    row = METHODS[method.name]
    if strange := [role for role in roles if role != row.role]:
        user = next(name for name, other in METHODS.items() if other.role == strange[0])
        raise UsageError(f"method {method.name} has no use for --{strange[0]}", f"It belongs to --method {user}.")
    if row.role and not roles:
        raise UsageError(f"method {method.name} needs --{row.role}", _ROLE_HINTS[row.role])
    if row.check is not None:
        row.check(method.name, coefficients)
    if method.normalize and not all(coefficient > 0 for coefficient in coefficients if coefficient):
        raise UsageError(
            "negative coefficients, or coefficients of different signs, have no sum to divide by",
            "Leave out --normalize, or add all vectors and put the sign into --alpha.",
        )
    if method.needs_factors and any(kind != "lora" for kind in kinds):
        raise UsageError(f"{method.name} works on LoRA adapters only", "For other vectors use ties or tsv.")
