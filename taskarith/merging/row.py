"""What is known of a merge method: a row of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from taskarith.errors import UsageError

__all__ = ["REQUIRED", "Mergekit", "MethodRow", "between_two", "of_several", "weighted_mean"]

REQUIRED = object()
"""Stands for the default of a parameter that has none."""


@dataclass(frozen=True)
class Mergekit:
    """How a file of mergekit writes a method.

    :param name: mergekit's name; empty if it is ours.
    :param weights: What says how much of each model is taken: a ``weight`` of each, one ``t`` between the base and
        another model, or nothing: all count alike.
    :param normalize: Whether it divides by the sum of weights by default; None if it has no such parameter.
    :param rescale: Whether what is kept can be rescaled, which is its default then.
    :param parameters: Its names of ours, for those that it has.
    :param fixed: Parameters that may have one value only.
    :param models: The least and the largest number of models, the base included where it is one of them.
    :param merges_base: Whether the base is one of the models that are merged.
    :param needs_base: Whether the file has to name a ``base_model``.
    :param without_base: What is said, and hinted at, if it does not, where mergekit would go on.
    """

    name: str = ""
    weights: Literal["weight", "t", ""] = "weight"
    normalize: bool | None = None
    rescale: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[int, float] = (2, float("inf"))
    merges_base: bool = False
    needs_base: bool = True
    without_base: tuple[str, str] | None = None


@dataclass(frozen=True)
class MethodRow:
    """What is known of a merge method.

    :param operator: MODULE.NAME in this package: called with the ``Setting`` of a tensor it returns an ``Operator``. Of
        a method that needs factors it is the function that merges these; of ``linear`` there is none.
    :param source: The paper that it comes from.
    :param parameters: Its parameters with their defaults: ``REQUIRED`` if there is none, None for what the paper does.
    :param needs: What has to be in memory together: a piece of each delta, whole matrices, or the factors of LoRA.
    :param role: Operands beside those that are added: ``protect``, ``weights`` or none.
    :param check: Refuses coefficients that it is not defined for; it is called with the method's name and these.
    :param mergekit: How mergekit writes it; None if it does not have it.
    """

    operator: str
    source: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs: Literal["pieces", "matrices", "factors"] = "pieces"
    role: Literal["protect", "weights", ""] = ""
    check: Callable[[str, Sequence[float]], None] | None = None
    mergekit: Mergekit | None = None

    def load(self) -> Callable[..., Any]:
        """Import the operator."""
        module, _, name = self.operator.partition(".")
        return getattr(import_module(f"taskarith.merging.{module}"), name)


def between_two(name: str, coefficients: Sequence[float]) -> None:
    """Refuse all but two coefficients that are not negative."""
    if len(coefficients) != 2 or min(coefficients) < 0 or not any(coefficients):
        raise UsageError(
            f"{name} goes between two models, with coefficients of 0 or more, not {list(coefficients)}",
            "Write --add A:0.7 --add B:0.3 for the point at 0.3 of the way from A to B.",
        )


def of_several(name: str, coefficients: Sequence[float]) -> None:
    """Refuse fewer than two coefficients that are not zero."""
    if sum(coefficient != 0 for coefficient in coefficients) < 2:
        raise UsageError(f"{name} needs two fine-tunes or more", "Add another one with --add V")


def weighted_mean(name: str, coefficients: Sequence[float]) -> None:
    """Refuse negative coefficients, and fewer than two that are not zero."""
    if min(coefficients) < 0:
        raise UsageError(
            f"{name} is a mean, with coefficients of 0 or more, not {list(coefficients)}",
            "Write --add A:0.7 --add B:0.3, and put a sign into --alpha.",
        )
    of_several(name, coefficients)
