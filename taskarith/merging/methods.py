"""How the deltas of several operands become one: the name of a method, its parameters, and what it asks for.

Sources and conventions are told where each is calculated, in ``arithmetic.operators``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from taskarith.errors import UsageError
from taskarith.untrusted import MalformedError, check_fields

__all__ = ["LINEAR", "METHODS", "Method", "check_operands", "parse_method"]

METHODS: dict[str, frozenset[str]] = {
    "linear": frozenset(),
    "ties": frozenset({"density", "normalize"}),
    "dare_linear": frozenset({"density", "normalize", "rescale", "seed"}),
    "dare_ties": frozenset({"density", "normalize", "rescale", "seed"}),
    "della": frozenset({"density", "epsilon", "normalize", "rescale", "seed"}),
    "della_linear": frozenset({"density", "epsilon", "normalize", "rescale", "seed"}),
    "breadcrumbs": frozenset({"density", "gamma", "normalize"}),
    "breadcrumbs_ties": frozenset({"density", "gamma", "normalize"}),
    "slerp": frozenset(),
    "model_stock": frozenset(),
    "tsv": frozenset(),
    "iso_c": frozenset(),
    "wudi": frozenset(),
    "core_space": frozenset({"density"}),
    "low_rank": frozenset({"rank"}),
    "rows": frozenset({"density"}),
    "negmerge": frozenset(),
    "project": frozenset(),
    "perta": frozenset(),
}
"""The options of each method."""

_ROLES = {"project": "protect", "perta": "weights"}
"""What a method looks at beside what is added: operands of which role."""

_ROLE_HINTS = {
    "protect": "Name the vectors of what is to be kept, as in --protect other.safetensors",
    "weights": "Name a weight for each parameter: taskarith importance MODEL --forget ... --retain ... -o FILE",
}
_DEFAULTS: dict[str, Any] = {"gamma": 0.01, "epsilon": 0.15, "rescale": True, "seed": 42}
_WHOLE = frozenset({"tsv", "iso_c", "wudi", "low_rank"})


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
        return self.name in _WHOLE

    @property
    def needs_factors(self) -> bool:
        """Whether all operands have to be LoRA adapters."""
        return self.name == "core_space"

    @property
    def needs_torch(self) -> bool:
        """Whether torch takes singular values."""
        return self.needs_whole_tensors or self.needs_factors

    def record(self) -> dict[str, Any]:
        """Return the name and the parameters that it has: what ``parse_method`` takes."""
        return {key: value for key, value in asdict(self).items() if value is not None}


LINEAR = Method()


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
    """Check a method and its options, and fill in defaults.

    :raises UsageError: The method is unknown, an option is missing, is none of the method's, or out of range.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method '{name}'", f"Choose one of {', '.join(METHODS)}.")
    used = METHODS[name]
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
        if value is not None and option not in used:
            users = ", ".join(method for method, options in METHODS.items() if option in options)
            raise UsageError(f"method {name} has no {option}", f"Leave out --{option}; it belongs to {users}.")
    if "density" in used and density is None:
        raise UsageError(f"method {name} needs a density", "Give the share to keep, as in --density 0.2")
    if "rank" in used and (rank is None or rank < 1):
        raise UsageError(f"method {name} needs a rank of 1 or more", "Give it, as in --rank 16")
    filled = {key: given[key] if given[key] is not None else _DEFAULTS.get(key) for key in used}
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
        raise UsageError(f"seed is {options['seed']}", "Give a number from 0 on.")


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
    if strange := [role for role in roles if role != _ROLES.get(method.name)]:
        user = next(name for name, role in _ROLES.items() if role == strange[0])
        raise UsageError(f"method {method.name} has no use for --{strange[0]}", f"It belongs to --method {user}.")
    if method.name in _ROLES and not roles:
        role = _ROLES[method.name]
        raise UsageError(f"method {method.name} needs --{role}", _ROLE_HINTS[role])
    count = sum(coefficient != 0 for coefficient in coefficients)
    if method.name == "slerp" and (len(coefficients) != 2 or min(coefficients) < 0 or count == 0):
        raise UsageError(
            f"slerp is between two models, with coefficients that are not negative; here are {list(coefficients)}",
            "Write --add A:0.7 --add B:0.3 for the point at 0.3 of the way from A to B.",
        )
    if method.name == "model_stock" and count < 2:
        raise UsageError("model_stock needs two fine-tunes or more", "Add another one with --add V")
    if method.normalize and not all(coefficient > 0 for coefficient in coefficients if coefficient):
        raise UsageError(
            "coefficients of different signs or negative ones have no sum to divide by",
            "Leave out --normalize, or add all vectors and put the sign into --alpha.",
        )
    if method.needs_factors and any(kind != "lora" for kind in kinds):
        raise UsageError(f"{method.name} works on LoRA adapters only", "For other vectors use ties or tsv.")
