"""Read a YAML configuration of mergekit as a recipe; what cannot be done here is refused by its name.

Facts about mergekit (0.1.5) that this rests on, found by reading and running it: ``linear`` divides by the sum of the
weights unless told otherwise, and knows no base; the others add weighted differences to ``base_model``, and divide
them by the sum of weights only where ``normalize`` says so. A gradient has its first value outside of the layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.chat import chat_template_of
from taskarith.edit.mergekit_merge import FORMS, MergekitMerge, coefficients, known_parameters
from taskarith.edit.recipe import Recipe
from taskarith.edit.scales import layer_places
from taskarith.errors import UsageError, name_some
from taskarith.spec import OperandRef, short

__all__ = ["translate"]

_KEYS = {"merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source"}


def translate(values: Mapping[str, Any]) -> Recipe:
    """Read a configuration of mergekit.

    :param values: What the YAML file holds.
    :raises UsageError: It asks for something that is not supported, or is wrong.
    """
    method = values["merge_method"]
    if not isinstance(method, str) or method not in FORMS:
        raise UsageError(f"mergekit's {short(method)} is not supported", f"Known methods are {', '.join(FORMS)}.")
    for key in ("modules", "tokenizer"):
        if values.get(key):
            raise UsageError(f"{key} of mergekit is not supported", "Leave it out: the files of the base travel along.")
    _check_keys(values, _KEYS | {"modules", "tokenizer", "chat_template"}, "the configuration")
    merge = _read(values, method)
    source = values.get("tokenizer_source")
    if source not in {None, "base", merge.base}:
        raise UsageError(f"tokenizer_source {short(source)} is not supported", "The tokenizer is that of the base.")
    ours = FORMS[method][0]
    options = {"model": merge.base} | ({} if ours == "linear" else {"method": ours})
    dtype = values.get("out_dtype") or values.get("dtype")
    if not isinstance(dtype, str | None):
        raise UsageError(f"cannot read the dtype {short(dtype)}", "Write its name, as in dtype: bfloat16")
    remarks = _remarks(merge, dtype)
    if dtype is not None:
        options["dtype"] = str(dtype).removeprefix("torch.")
    if values.get("chat_template"):
        options["chat_template"] = _chat_template(values["chat_template"], merge)
    weights, more = coefficients(merge)
    names = [name for name, _ in merge.inputs if name != merge.base or merge.form.merges_base]
    operands = tuple(_operand(merge, name, weights[name]) for name in names)
    return Recipe(options | more, operands, remarks=remarks)


def _chat_template(value: Any, merge: MergekitMerge) -> str:
    """Return the template itself, or with ``auto`` the model whose template most of the models have."""
    if value != "auto":
        if not isinstance(value, str) or not ("{%" in value or "{{" in value):
            raise UsageError(
                f"mergekit's built-in chat template {short(value)} is not supported",
                "Leave it out, and name a model or file that has it: --chat-template FROM",
            )
        return value
    models = dict.fromkeys(name.partition("+")[0] for name, _ in merge.inputs)  # "model+lora"
    templates = {name: chat_template_of(resolve_model(name).path) for name in models}
    counts = Counter(template for template in templates.values() if template)
    if not counts:
        raise UsageError("chat_template: auto, but none of the models has one", "Leave it out.")
    return next(name for name, template in templates.items() if template == counts.most_common(1)[0][0])


def _read(values: Mapping[str, Any], method: str) -> MergekitMerge:
    """Find models and parameters, in ``models`` or in the one slice that is the whole model."""
    common = [_parameters(values, method)]
    base = None if values.get("base_model") is None else _name(values["base_model"])
    if (values.get("models") is None) == (values.get("slices") is None):
        raise UsageError("the configuration has no models, or slices besides", "Name the models under models.")
    listed, ranges = values.get("models"), []
    if listed is None:
        slices = values["slices"]
        if not isinstance(slices, list) or len(slices) != 1 or not isinstance(slices[0], Mapping):
            raise UsageError("slices that move layers are not supported", "Use one slice that has all layers.")
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
) -> MergekitMerge:
    form = FORMS[method][1]
    if base is None and form.needs_base:
        raise UsageError(
            *form.without_base or (f"{method} of mergekit needs a base_model", "Name it: base_model: NAME")
        )
    base = base or inputs[0][0]
    if base not in dict(inputs):
        inputs = [*inputs, (base, {})]
    if not form.models[0] <= len(inputs) <= form.models[1]:
        raise UsageError(f"{len(inputs)} models are too few or too many for {method}", "mergekit refuses it too.")
    return MergekitMerge(method, base, tuple(inputs), tuple(common))


def _check_ranges(merge: MergekitMerge, ranges: list[tuple[Any, Any]]) -> None:
    if not ranges:
        return
    names = open_checkpoint(resolve_model(merge.base).path).tensors
    layers = max((count for _, count in layer_places(names).values()), default=0)
    for model, span in ranges:
        if span != [0, layers]:
            raise UsageError(
                f"layer_range {short(span)} of {short(model)} moves layers, which is not supported",
                f"The range of all layers of {merge.base} is [0, {layers}].",
            )


def _operand(merge: MergekitMerge, name: str, weights: Mapping[str, float]) -> OperandRef:
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


def _remarks(merge: MergekitMerge, dtype: Any) -> tuple[str, ...]:
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
    _check_keys(parameters, known_parameters(method), f"{method} of mergekit")
    return parameters


def _check_keys(values: Mapping[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(str(key) for key in values.keys() - known):
        raise UsageError(f"{name_some(unknown)} is not known in {what}", f"Known are {', '.join(sorted(known))}.")


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"cannot read the model {short(value)}", "Write its folder or hub id, as in - model: NAME")
    return value
