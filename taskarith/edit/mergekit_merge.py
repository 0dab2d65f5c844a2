"""What a configuration of mergekit merges: the models with their parameters, and the coefficients that follow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.mergekit_values import Place, flag, number, setting_at, varies
from taskarith.edit.scales import layer_places
from taskarith.errors import UsageError, name_some
from taskarith.merging.methods import METHODS
from taskarith.merging.row import Mergekit

__all__ = ["FORMS", "MergekitMerge", "coefficients", "known_parameters"]

FORMS: Mapping[str, tuple[str, Mergekit]] = {
    "linear": ("linear", Mergekit(normalize=True, needs_base=False)),  # an average, where task arithmetic is a sum
    **{row.mergekit.name or name: (name, row.mergekit) for name, row in METHODS.items() if row.mergekit},
}
"""By mergekit's name of a method: ours, and how mergekit writes it."""

_BY_MODEL = {"density", "gamma", "epsilon"}
"""Parameters that mergekit lets models have of their own."""


@dataclass(frozen=True)
class MergekitMerge:
    """What is merged.

    :param method: mergekit's name of it.
    :param base: The model to edit.
    :param inputs: All models in order, the base included where it counts as one, with their own parameters.
    :param common: Parameters of all, the nearest first.
    """

    method: str
    base: str
    inputs: tuple[tuple[str, Mapping[str, Any]], ...]
    common: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def form(self) -> Mergekit:
        """How mergekit writes the method."""
        return FORMS[self.method][1]

    @cached_property
    def tensors(self) -> Mapping[str, Place]:
        """The tensors of the base with their places; one without a name where all parameters are the same for all."""
        if not any(
            varies(setting) for scope in (*self.common, *dict(self.inputs).values()) for setting in scope.values()
        ):
            return {"": None}
        names = list(open_checkpoint(resolve_model(self.base).path).tensors)
        places = layer_places(names)
        return {name: places.get(name) for name in names}

    def values(self, parameter: str, model: str | None = None) -> dict[str, Any]:
        """Return the value of a parameter for each tensor, for one of the models or for all."""
        own = dict(self.inputs)[model] if model is not None else {}
        return {
            tensor: setting_at(parameter, (own, *self.common), tensor, place) for tensor, place in self.tensors.items()
        }

    def constant(self, parameter: str) -> Any:
        """Return the value of a parameter that must be the same for all models and tensors, or None."""
        names = [name for name, _ in self.inputs if name != self.base] if parameter in _BY_MODEL else [None]
        values = [value for name in names for value in self.values(parameter, name).values()]
        if any(value != values[0] for value in values):
            raise UsageError(
                f"{parameter} of {self.method} differs between models or tensors, which is not supported",
                "Give one value for all.",
            )
        return values[0]


def coefficients(merge: MergekitMerge) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Return the coefficient of each model for each tensor, and the options that stand for the other parameters."""
    form = merge.form
    if merge.method == "linear":
        return _average(merge), {}
    others = [name for name, _ in merge.inputs if name != merge.base]
    _check_fixed(merge)
    options = {ours: number(theirs, _or(merge.constant(theirs), 1.0)) for ours, theirs in form.parameters.items()}
    if form.weights == "t":
        shares = _numbers(merge, "t", None)
        return {others[0]: shares, merge.base: {tensor: 1.0 - share for tensor, share in shares.items()}}, options
    if not form.weights:
        return {name: dict.fromkeys(merge.tensors, 1.0) for name, _ in merge.inputs}, options
    weights = {name: _numbers(merge, "weight", name) for name in others}
    if form.normalize is None:
        return weights, options
    return _of_differences(merge, weights, form.normalize)


def _of_differences(
    merge: MergekitMerge, weights: dict[str, dict[str, float]], normalize: bool
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Read what all methods share that add weighted differences to the base."""
    method, form = FORMS[merge.method]
    normalize = flag("normalize", _or(merge.constant("normalize"), normalize))
    factors = {tensor: number("lambda", _or(value, 1.0)) for tensor, value in merge.values("lambda").items()}
    if method == "linear":
        if normalize:
            sums = {tensor: math.fsum(one[tensor] for one in weights.values()) for tensor in merge.tensors}
            factors = {t: factor / sums[t] if abs(sums[t]) >= 1e-8 else factor for t, factor in factors.items()}
        if len(set(factors.values())) > 1 or normalize:
            return {name: {t: c * factors[t] for t, c in values.items()} for name, values in weights.items()}, {}
        return weights, {"alpha": factors[next(iter(factors))]}
    defaults = METHODS[method].parameters
    options: dict[str, Any] = {
        ours: number(theirs, _or(merge.constant(theirs), 1.0 if ours == "density" else defaults[ours]))
        for ours, theirs in form.parameters.items()
    }
    options["normalize"] = normalize
    wanted = flag("rescale", _or(merge.constant("rescale"), form.rescale))
    if form.rescale:
        options["rescale"] = wanted
    elif wanted:
        raise UsageError(f"rescale of {merge.method} is not supported", "Leave it out, or take dare_linear.")
    return weights, options | {"alpha": number("lambda", _or(merge.constant("lambda"), 1.0))}


def _check_fixed(merge: MergekitMerge) -> None:
    for name, only in merge.form.fixed.items():
        read = flag if isinstance(only, bool) else number
        value = merge.constant(name)
        if value is not None and read(name, value) != only:
            raise UsageError(f"{name} of {merge.method} is not supported", f"Leave it out: it is {only} then.")


def _average(merge: MergekitMerge) -> dict[str, dict[str, float]]:
    """Return c in ``x_1 + sum c_i (x_i - x_1)``, which is the sum of ``c_i x_i`` where all c sum up to 1."""
    weights = {name: _numbers(merge, "weight", name) for name, _ in merge.inputs}
    sums = {tensor: math.fsum(one[tensor] for one in weights.values()) for tensor in merge.tensors}
    if not flag("normalize", _or(merge.constant("normalize"), True)):
        if odd := [total for total in sums.values() if total != 1]:
            raise UsageError(
                f"linear with normalize: false and weights that sum up to {odd[0]:g} is not supported",
                "Give weights that sum up to 1, or use task_arithmetic with a base_model.",
            )
    elif 0 in sums.values():
        raise UsageError("the weights of linear sum up to 0", "Give others, or normalize: false.")
    return {name: {t: weight / sums[t] for t, weight in values.items()} for name, values in weights.items()}


def _numbers(merge: MergekitMerge, parameter: str, model: str | None) -> dict[str, float]:
    values = merge.values(parameter, model)
    if missing := [tensor for tensor, value in values.items() if value is None]:
        where = f" of {model}" if model else ""
        raise UsageError(
            f"the {parameter}{where} is missing{f' for {name_some(missing)}' if missing != [''] else ''}",
            f"Give it under the parameters of the model, or of all: {parameter}: 0.5",
        )
    return {tensor: number(parameter, value) for tensor, value in values.items()}


def known_parameters(method: str) -> set[str]:
    """Return the parameters that mergekit's method has."""
    form = FORMS[method][1]
    known = {form.weights, *form.parameters.values(), *form.fixed} - {""}
    if form.normalize is None:
        return known | ({"int8_mask"} if form.parameters else set())
    return known | {"normalize"} | ({"density", "rescale", "lambda", "int8_mask"} if form.needs_base else set())


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
