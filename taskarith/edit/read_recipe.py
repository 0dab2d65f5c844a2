"""Recipes: an edit written down as a map, by hand, by an earlier edit (``taskarith.json``), or for mergekit.

A recipe holds values of the options of ``apply`` under their names, and besides

    model: microsoft/phi-1_5
    operands:
      - vector: forget.safetensors      # a file, a folder or a hub id
        coefficient: -0.6               # 1 if it is left out
        base: microsoft/phi-1_5         # the model that a fine-tune is a difference to, if not the one it records
        against_model: true             # instead: it is the model that is edited, whatever base it records
        scale: {layers: [0, 1], mlp: 0.5}
      - other.safetensors:0.2           # or as after --add: VECTOR@@BASE:COEFFICIENT
    scale: {lm_head: 0}
    method: {name: ties, density: 0.5}  # or flat: method: ties, density: 0.5
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from taskarith.edit.recipe import Recipe
from taskarith.errors import UsageError, name_some
from taskarith.spec import OperandRef, Scales, finite_number, parse_operand, parse_scales, plain_scales, short

__all__ = ["parse_recipe"]

_OPERAND_KEYS = ("vector", "coefficient", "scale", "fingerprint", "against_model", "base")


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Read a recipe, the record of an edit, or a configuration of mergekit.

    :param values: What the file holds.
    :raises UsageError: It is none of these, or a value cannot be read.
    """
    if "merge_method" in values:
        from taskarith.edit.mergekit import translate

        return translate(values)
    if "kind" in values:
        return _of_record(values)
    options, operands = _options(values), values.get("operands") or []
    if not isinstance(operands, list):
        raise UsageError(f"the operands {short(operands)} are not a list", "Write each on a line: - vector: FILE")
    if operands and {"add", "negate"} & options.keys():
        raise UsageError("the recipe has operands as well as add or negate", "Name all vectors under operands.")
    return Recipe(options, tuple(_operand(one) for one in operands))


def _of_record(record: Mapping[str, Any]) -> Recipe:
    from taskarith.edit.edit import Edit

    if record.get("kind") != "edit":
        raise UsageError(
            f"this is the record of {short(record['kind'])}, not of an edit",
            "Give the taskarith.json of an output of apply, or a recipe.",
        )
    try:
        edit = Edit.from_record(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"the record of this edit is broken: {error!r}", "Get it again from where it came from."
        ) from error
    return Recipe(_options(replace(edit, operands=()).to_recipe()), edit.operands, edit.model_fingerprint)


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return all but the operands as values of options."""
    plain = {key: value for key, value in values.items() if key not in {"operands", "method", "scale"}}
    return plain | _method(values) | _scale(values)


def _method(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the method and its parameters as options, from a map or flat."""
    method = values.get("method")
    if not isinstance(method, Mapping):
        return {} if method is None else {"method": method}
    if "name" not in method:
        raise UsageError("the method has no name", "Write method: {name: ties, density: 0.5}")
    parameters = {str(key): value for key, value in method.items() if key != "name" and value is not None}
    if twice := sorted(parameters.keys() & values.keys()):
        raise UsageError(f"{name_some(twice)} is given in the method and beside it", "Write it once.")
    return {"method": method["name"], **parameters}


def _scale(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return a scale as the values of its option."""
    scales = _read_scales(values.get("scale"))
    return {"scale": [f"{name}={plain}" for name, plain in plain_scales(scales).items()]} if scales else {}


def _read_scales(value: Any) -> Scales:
    if value is None:
        return {}
    if isinstance(value, Mapping | list):
        return parse_scales(value)
    if isinstance(value, str):
        return parse_scales([value])
    raise UsageError(f"cannot read the scale {short(value)}", "Write a map, as in scale: {mlp: 0.5}")


def _operand(value: Any) -> OperandRef:
    if isinstance(value, str):
        return parse_operand(value)
    if not isinstance(value, Mapping) or not isinstance(value.get("vector"), str) or not value["vector"]:
        raise UsageError(f"cannot read the operand {short(value)}", "Write - vector: FILE, coefficient: 0.5")
    if unknown := sorted(str(key) for key in value.keys() - set(_OPERAND_KEYS)):
        raise UsageError(
            f"operand {value['vector']} has unknown keys: {name_some(unknown)}",
            f"Known are {', '.join(_OPERAND_KEYS)}.",
        )
    coefficient = finite_number(value.get("coefficient", 1.0))
    if coefficient is None:
        raise UsageError(
            f"coefficient {short(value['coefficient'])} of {value['vector']} is not a finite number",
            "Give a number, as in coefficient: 0.3",
        )
    fingerprint, against_model = value.get("fingerprint") or "", value.get("against_model") or False
    if not isinstance(against_model, bool):
        raise UsageError(f"against_model {short(against_model)} is neither true nor false", "Write against_model: true")
    base = value.get("base") or ""
    if not isinstance(base, str) or (base and against_model):
        raise UsageError(
            f"cannot read the base {short(value['base'])} of {value['vector']}",
            "Write base: FOLDER, or against_model: true where it is the model that is edited.",
        )
    scales = _read_scales(value.get("scale"))
    return OperandRef(value["vector"], coefficient, scales, str(fingerprint), against_model, base=base)
