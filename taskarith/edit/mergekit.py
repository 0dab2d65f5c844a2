"""Read a YAML configuration of mergekit as a recipe; what cannot be done here is refused by its name.

Facts about mergekit (0.1.5) that this rests on, found by reading and running it: ``linear`` divides by the sum of the
weights unless told otherwise, and knows no base; the others add weighted differences to ``base_model``, and divide
them by the sum of weights only where ``normalize`` says so. A gradient has its first value outside of the layers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.chat import chat_template_of
from taskarith.edit.mergekit_values import Place, flag, number, setting_at, varies
from taskarith.edit.recipe import Recipe
from taskarith.edit.scales import layer_places
from taskarith.errors import UsageError, name_some
from taskarith.spec import OperandRef, short

__all__ = ["translate"]

_FAMILY: dict[str, tuple[bool, bool, tuple[str, ...]]] = {
    "task_arithmetic": (False, False, ()),
    "ties": (True, False, ("density",)),
    "dare_linear": (False, True, ("density",)),
    "dare_ties": (False, True, ("density",)),
    "della": (True, True, ("density", "epsilon")),
    "della_linear": (False, True, ("density", "epsilon")),
    "breadcrumbs": (False, False, ("density", "gamma")),
    "breadcrumbs_ties": (False, False, ("density", "gamma")),
}
"""Methods that merge differences to a base: whether they normalise and rescale by default, and their parameters."""

_DEFAULTS = {"density": 1.0, "gamma": 0.01, "epsilon": 0.15}
_KNOWN = {
    "linear": {"weight", "normalize"},
    "slerp": {"t"},
    "model_stock": {"filter_wise"},
    **{
        method: {"weight", "density", "normalize", "rescale", "lambda", "int8_mask", *more}
        for method, (_, _, more) in _FAMILY.items()
    },
}
_KEYS = {"merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source"}


def translate(values: Mapping[str, Any]) -> Recipe:
    """Read a configuration of mergekit.

    :param values: What the YAML file holds.
    :raises UsageError: It asks for something that is not done here, or is wrong.
    """
    method = values["merge_method"]
    if not isinstance(method, str) or method not in _KNOWN:
        raise UsageError(f"mergekit's {short(method)} is not done here", f"Known methods are {', '.join(_KNOWN)}.")
    for key in ("modules", "tokenizer"):
        if values.get(key):
            raise UsageError(f"{key} of mergekit is not done here", "Leave it out: the files of the base travel along.")
    _check_keys(values, _KEYS | {"modules", "tokenizer", "chat_template"}, "the configuration")
    merge = _read(values, method)
    source = values.get("tokenizer_source")
    if source not in {None, "base", merge.base}:
        raise UsageError(f"tokenizer_source {short(source)} is not done here", "The tokenizer is that of the base.")
    options = {"model": merge.base} | ({} if method in {"linear", "task_arithmetic"} else {"method": method})
    dtype = values.get("out_dtype") or values.get("dtype")
    if not isinstance(dtype, str | None):
        raise UsageError(f"cannot read the dtype {short(dtype)}", "Write its name, as in dtype: bfloat16")
    remarks = _remarks(merge, dtype)
    if dtype is not None:
        options["dtype"] = str(dtype).removeprefix("torch.")
    if values.get("chat_template"):
        options["chat_template"] = _chat_template(values["chat_template"], merge)
    weights, more = _coefficients(merge)
    ends = {merge.base} if method == "slerp" else set()  # which goes from the base to the other model
    operands = tuple(
        _operand(merge, name, weights[name]) for name, _ in merge.inputs if name != merge.base or name in ends
    )
    return Recipe(options | more, operands, remarks=remarks)


def _chat_template(value: Any, merge: _Merge) -> str:
    """Return the template itself, or with ``auto`` the model whose template most of the models have."""
    if value != "auto":
        if not isinstance(value, str) or not ("{%" in value or "{{" in value):
            raise UsageError(
                f"mergekit's built-in chat template {short(value)} is not done here",
                "Leave it out, and name a model or file that has it: --chat-template FROM",
            )
        return value
    models = dict.fromkeys(name.partition("+")[0] for name, _ in merge.inputs)  # "model+lora"
    templates = {name: chat_template_of(resolve_model(name).path) for name in models}
    counts = Counter(template for template in templates.values() if template)
    if not counts:
        raise UsageError("chat_template: auto, but none of the models has one", "Leave it out.")
    return next(name for name, template in templates.items() if template == counts.most_common(1)[0][0])


@dataclass(frozen=True)
class _Merge:
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
        names = [name for name, _ in self.inputs if name != self.base] if parameter in _DEFAULTS else [None]
        values = [value for name in names for value in self.values(parameter, name).values()]
        if any(value != values[0] for value in values):
            raise UsageError(
                f"{parameter} of {self.method} differs between models or tensors, which is not done here",
                "Give one value for all.",
            )
        return values[0]


def _read(values: Mapping[str, Any], method: str) -> _Merge:
    """Find models and parameters, in ``models`` or in the one slice that is the whole model."""
    common = [_parameters(values, method)]
    base = None if values.get("base_model") is None else _name(values["base_model"])
    if (values.get("models") is None) == (values.get("slices") is None):
        raise UsageError("the configuration has no models, or slices besides", "Name the models under models.")
    listed, ranges = values.get("models"), []
    if listed is None:
        slices = values["slices"]
        if not isinstance(slices, list) or len(slices) != 1 or not isinstance(slices[0], Mapping):
            raise UsageError("slices that move layers are not done here", "One slice with all layers is the most.")
        _check_keys(slices[0], {"sources", "parameters", "base_model"}, "a slice")
        listed, common = slices[0].get("sources"), [_parameters(slices[0], method), *common]
        base = _name(slices[0]["base_model"]) if slices[0].get("base_model") is not None else base
    if not isinstance(listed, list) or not listed or not all(isinstance(one, Mapping) for one in listed):
        raise UsageError("the models of the configuration are not a list", "Write each on a line: - model: NAME")
    for one in listed:
        _check_keys(one, {"model", "parameters", "layer_range"}, "a model")
        ranges += [(one.get("model"), one.get("layer_range"))] if values.get("slices") or "layer_range" in one else []
    inputs = [(_name(one.get("model")), _parameters(one, method)) for one in listed]
    if twice := sorted({name for name, _ in inputs if [other for other, _ in inputs].count(name) > 1}):
        raise UsageError(f"{name_some(twice)} is listed twice", "Add its weights up.")
    merge = _with_base(method, base, inputs, common)
    _check_ranges(merge, ranges)
    return merge


def _with_base(
    method: str, base: str | None, inputs: list[tuple[str, Mapping[str, Any]]], common: list[Mapping[str, Any]]
) -> _Merge:
    if base is None and method != "linear":
        raise UsageError(f"{method} of mergekit needs a base_model", "Name it: base_model: NAME")
    base = base or inputs[0][0]
    if base not in dict(inputs):
        inputs = [*inputs, (base, {})]
    if len(inputs) < 2 or (method == "slerp" and len(inputs) != 2) or (method == "model_stock" and len(inputs) < 3):
        raise UsageError(f"{len(inputs)} models are too few or too many for {method}", "mergekit refuses it too.")
    return _Merge(method, base, tuple(inputs), tuple(common))


def _check_ranges(merge: _Merge, ranges: list[tuple[Any, Any]]) -> None:
    if not ranges:
        return
    names = open_checkpoint(resolve_model(merge.base).path).tensors
    layers = max((count for _, count in layer_places(names).values()), default=0)
    for model, span in ranges:
        if span != [0, layers]:
            raise UsageError(
                f"layer_range {short(span)} of {short(model)} moves layers, which is not done here",
                f"The range of all layers of {merge.base} is [0, {layers}].",
            )


def _coefficients(merge: _Merge) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Return the coefficient of each model for each tensor, and the options that stand for the other parameters."""
    if merge.method == "linear":
        return _average(merge), {}
    others = [name for name, _ in merge.inputs if name != merge.base]
    if merge.method == "model_stock":
        if flag("filter_wise", merge.constant("filter_wise") or False):
            raise UsageError("filter_wise of model_stock is not done here", "Leave it out.")
        return {name: dict.fromkeys(merge.tensors, 1.0) for name in others}, {}
    if merge.method == "slerp":
        shares = _numbers(merge, "t", None)
        return {others[0]: shares, merge.base: {tensor: 1.0 - share for tensor, share in shares.items()}}, {}
    weights = {name: _numbers(merge, "weight", name) for name in others}
    normalize, rescale, parameters = _FAMILY[merge.method]
    normalize = flag("normalize", _or(merge.constant("normalize"), normalize))
    factors = {tensor: number("lambda", _or(value, 1.0)) for tensor, value in merge.values("lambda").items()}
    if merge.method == "task_arithmetic":
        if normalize:
            sums = {tensor: math.fsum(weights[name][tensor] for name in others) for tensor in merge.tensors}
            factors = {t: factor / sums[t] if abs(sums[t]) >= 1e-8 else factor for t, factor in factors.items()}
        if len(set(factors.values())) > 1 or normalize:
            return {name: {t: c * factors[t] for t, c in values.items()} for name, values in weights.items()}, {}
        return weights, {"alpha": factors[next(iter(factors))]}
    found: dict[str, Any] = {one: number(one, _or(merge.constant(one), _DEFAULTS[one])) for one in parameters}
    found["normalize"] = normalize
    wanted = flag("rescale", _or(merge.constant("rescale"), rescale))
    if rescale:
        found["rescale"] = wanted
    elif wanted:
        raise UsageError(f"rescale of {merge.method} is not done here", "Leave it out, or take dare_linear.")
    return weights, found | {"alpha": number("lambda", _or(merge.constant("lambda"), 1.0))}


def _average(merge: _Merge) -> dict[str, dict[str, float]]:
    """Return c in ``x_1 + sum c_i (x_i - x_1)``, which is the sum of ``c_i x_i`` where all c sum up to 1."""
    weights = {name: _numbers(merge, "weight", name) for name, _ in merge.inputs}
    sums = {tensor: math.fsum(one[tensor] for one in weights.values()) for tensor in merge.tensors}
    if not flag("normalize", _or(merge.constant("normalize"), True)):
        if odd := [total for total in sums.values() if total != 1]:
            raise UsageError(
                f"linear with normalize: false and weights that sum up to {odd[0]:g} is not done here",
                "Give weights that sum up to 1, or use task_arithmetic with a base_model.",
            )
    elif 0 in sums.values():
        raise UsageError("the weights of linear sum up to 0", "Give others, or normalize: false.")
    return {name: {t: weight / sums[t] for t, weight in values.items()} for name, values in weights.items()}


def _numbers(merge: _Merge, parameter: str, model: str | None) -> dict[str, float]:
    values = merge.values(parameter, model)
    if missing := [tensor for tensor, value in values.items() if value is None]:
        where = f" of {model}" if model else ""
        raise UsageError(
            f"the {parameter}{where} is missing{f' for {name_some(missing)}' if missing != [''] else ''}",
            f"Give it under the parameters of the model, or of all: {parameter}: 0.5",
        )
    return {tensor: number(parameter, value) for tensor, value in values.items()}


def _operand(merge: _Merge, name: str, weights: Mapping[str, float]) -> OperandRef:
    """Return a model as an operand whose delta is taken against the base of the merge, or an adapter on that base."""
    model, plus, adapter = name.partition("+")
    vector = name
    if plus and not Path(name).exists():
        if model != merge.base:
            raise UsageError(f"{name} is an adapter on another model than the base {merge.base}", "Merge it first.")
        vector = adapter
    values = set(weights.values())
    if len(values) == 1:
        return OperandRef(vector, values.pop(), against_model=True)
    return OperandRef(vector, 1.0, {tensor: (weight,) for tensor, weight in weights.items()}, against_model=True)


def _remarks(merge: _Merge, dtype: Any) -> tuple[str, ...]:
    used = {name for scope in (*merge.common, *dict(merge.inputs).values()) for name in scope}
    idle = {"int8_mask"} | (set() if merge.method != "task_arithmetic" else {"density", "rescale"})
    remarks = [f"{name} of mergekit has no effect on the result here, and is ignored" for name in sorted(used & idle)]
    if dtype not in {None, "float64"}:
        remarks.append(f"{dtype} is the dtype of the output; the arithmetic is float64")
    return tuple(remarks)


def _parameters(values: Mapping[str, Any], method: str) -> Mapping[str, Any]:
    parameters = values.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise UsageError(f"the parameters {short(parameters)} are not a map", "Write parameters: {weight: 0.5}")
    _check_keys(parameters, _KNOWN[method], f"{method} of mergekit")
    return parameters


def _check_keys(values: Mapping[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(str(key) for key in values.keys() - known):
        raise UsageError(f"{name_some(unknown)} is not known in {what}", f"Known are {', '.join(sorted(known))}.")


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"cannot read the model {short(value)}", "Write its folder or hub id, as in - model: NAME")
    return value


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
