"""Parameters in a configuration of mergekit: numbers, gradients over the layers, and lists of conditions by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taskarith.edit.scales import interpolate
from taskarith.errors import UsageError, name_some
from taskarith.spec import finite_number, short

__all__ = ["flag", "number", "setting_at", "varies"]

Place = tuple[int, int] | None
"""Layer of a tensor and how many there are; None outside of the layers, where a gradient has its first value."""


def varies(setting: Any) -> bool:
    """Return whether a setting may differ from tensor to tensor."""
    return isinstance(setting, list | Mapping)


def setting_at(parameter: str, scopes: Sequence[Mapping[str, Any]], tensor: str, place: Place) -> Any:
    """Return the value of a parameter for a tensor, or None where nothing says one.

    :param parameter: Its name.
    :param scopes: Where it may be set, the nearest first; where conditions of one do not hold, the next is asked.
    :param tensor: Name of the tensor.
    :param place: Where it is in the depth of the model.
    :raises UsageError: A setting is none.
    """
    for scope in scopes:
        value = _evaluate(parameter, scope.get(parameter), tensor, place)
        if value is not None:
            return value
    return None


def number(parameter: str, value: Any) -> float:
    """Return a value that must be a finite number.

    :raises UsageError: It is none.
    """
    found = finite_number(value)
    if found is None:
        raise UsageError(
            f"the {parameter} {short(value)} is not a finite number", f"Write a number, as in {parameter}: 0.5"
        )
    return found


def flag(parameter: str, value: Any) -> bool:
    """Return a value that must be true or false.

    :raises UsageError: It is neither.
    """
    if isinstance(value, bool) or (isinstance(value, int | float) and value in {0, 1}):
        return bool(value)
    raise UsageError(f"{parameter} {short(value)} is neither true nor false", f"Write {parameter}: true")


def _evaluate(parameter: str, setting: Any, tensor: str, place: Place) -> Any:
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return setting
    if not any(varies(one) for one in setting):
        values = [number(parameter, one) for one in setting]
        return (interpolate(values, *place) if place else values[0]) if values else None
    for one in setting:
        condition, value = _condition(parameter, one)
        if condition in {None, "*"} or condition in tensor:
            return _evaluate(parameter, value, tensor, place)
    return None


def _condition(parameter: str, one: Any) -> tuple[str | None, Any]:
    if not isinstance(one, Mapping) or "value" not in one or not isinstance(one.get("filter"), str | None):
        raise UsageError(f"cannot read {short(one)} of {parameter}", "Write - {filter: mlp, value: 0.5}")
    if unknown := sorted(str(key) for key in one.keys() - {"filter", "value"}):
        raise UsageError(f"{name_some(unknown)} is unknown in {parameter}", "Write - {filter: mlp, value: 0.5}")
    if isinstance(one["value"], Mapping) or (isinstance(one["value"], list) and any(map(varies, one["value"]))):
        raise UsageError(
            f"a condition of {parameter} holds conditions", "Write a number or a list of numbers as value."
        )
    return one.get("filter"), one["value"]
