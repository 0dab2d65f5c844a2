"""An edit as one value, read from options, a recipe or a record, and written as a recipe or a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from taskarith.calls import listed
from taskarith.checkpoints.dtypes import TORCH_NAMES, VECTOR_DTYPES
from taskarith.errors import UsageError
from taskarith.merging.methods import LINEAR, Method, parse_method
from taskarith.spec import (
    OperandRef,
    Scales,
    exists,
    finite_number,
    parse_operand,
    parse_scales,
    parse_size,
    plain_scales,
    short,
)
from taskarith.vectors.vector import BaseRecord
from taskarith.vectors.vocabulary import check_vocab

__all__ = ["Edit", "EditKeywords", "ReadVector", "located", "plain_operand"]

_WITH_BASE = {"finetuned", "exact", "lora"}
"""Kinds of operands whose deltas may be taken against a base of their own."""

_RARE = ("max_shard_size", "vocab", "tokenizer", "ignore_buffers", "chat_template")
"""What a record and a recipe leave out where it is not used."""


@dataclass(frozen=True)
class ReadVector:
    """What was read under the name of an operand.

    :param name: An absolute path, or a hub id with its commit.
    :param kind: Of the vector.
    :param base: The model that its deltas were taken against, or else that it was made from.
    :param fingerprint: Of the deltas.
    """

    name: str
    kind: str
    base: BaseRecord | None
    fingerprint: str


class EditKeywords(TypedDict, total=False):
    """What ``Edit.from_options`` takes by name beside the vectors that are added and subtracted."""

    operands: Sequence[OperandRef]
    protect: Sequence[str]
    weights: str | None
    scale: Mapping[str, Any] | Sequence[str]
    method: Method | str


@dataclass(frozen=True)
class Edit:
    """An edit: all that decides a byte of its output, and the fingerprints that a repetition expects of its inputs.

    :param operands: The vectors with their coefficients and scales; those that are not added come last.
    :param model: What is edited, as ``resolve_model`` takes it; None is the base that the first vector records.
    :param model_fingerprint: What the model must have, as an earlier edit recorded it; empty if that does not matter.
    :param alpha: Multiplies all coefficients.
    :param scale: Multiplies them tensor by tensor.
    :param method: Merge method.
    :param dtype: Of all float tensors of the output, as safetensors names it; None keeps that of each.
    :param max_shard_size: Bytes of tensors in one file; None keeps the files of the model.
    :param vocab: ``intersection``, ``union`` or None: what is done where vocabularies differ in size.
    :param tokenizer: The model whose tokenizer the output gets; empty for the model's own.
    :param ignore_buffers: Leave out buffers that only one of a fine-tune, its base and the model has.
    :param chat_template: Where the output's chat template is from, or the template; empty for the model's own.
    """

    operands: tuple[OperandRef, ...] = ()
    model: str | None = None
    model_fingerprint: str = ""
    alpha: float = 1.0
    scale: Scales = field(default_factory=dict)
    method: Method = LINEAR
    dtype: str | None = None
    max_shard_size: int | None = None
    vocab: str | None = None
    tokenizer: str = ""
    ignore_buffers: bool = False
    chat_template: str = ""

    @classmethod
    def from_options(
        cls,
        add: str | Path | Sequence[str | Path] = (),
        negate: str | Path | Sequence[str | Path] = (),
        operands: Sequence[OperandRef] = (),
        *,
        protect: str | Path | Sequence[str | Path] = (),
        weights: str | Path | None = None,
        scale: Mapping[str, Any] | Sequence[str] = (),
        method: Method | str = LINEAR,
    ) -> Edit:
        """Read what users write in languages of their own: vectors and scales.

        :param add: Vectors to add, as after ``--add``.
        :param negate: Vectors to subtract.
        :param operands: More vectors, appended to these.
        :param protect: Vectors that are looked at, but not added.
        :param weights: A file that is looked at, but not added.
        :param scale: As after ``--scale``, or a map.
        :param method: Merge method, or its name.
        :raises UsageError: There is no vector to add, or a coefficient or a scale cannot be read.
        """
        found = [parse_operand(text) for text in listed(add)] + [parse_operand(text, -1.0) for text in listed(negate)]
        found += operands
        found += [_protected(text) for text in listed(protect)]
        found += [OperandRef(str(weights), 0.0, role="weights")] if weights is not None else []
        if all(one.role for one in found):
            raise UsageError(
                "no vector is given", "Name one with --negate V or --add V, as in --negate forget.safetensors"
            )
        method = parse_method(method) if isinstance(method, str) else method
        return cls(tuple(found), scale=parse_scales(scale), method=method)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Edit:
        """Read an edit from what ``to_record`` returned, in this release or an earlier one.

        :raises KeyError, TypeError, ValueError, AttributeError: The record is broken.
        :raises UsageError: A value is out of range, or of another release.
        """
        base, dtype, method = BaseRecord.named(record["base"]), record.get("dtype"), record.get("method", {})
        if not base.fingerprint:
            raise KeyError("fingerprint")
        if dtype not in {None, *VECTOR_DTYPES.values()}:
            raise ValueError(f"dtype {dtype!r}")
        if not isinstance(method, Mapping):
            raise ValueError(f"method {short(method)}")
        check_vocab(record.get("vocab"))
        return cls(
            tuple(_read_operand(one) for one in record["operands"]),
            str(base),
            base.fingerprint,
            _number(record["alpha"]),
            parse_scales(record.get("scale") or {}),
            parse_method(**method),
            dtype,
            _size(record.get("max_shard_size")),
            record.get("vocab"),
            str(record.get("tokenizer") or ""),
            bool(record.get("ignore_buffers", False)),
            str(record.get("chat_template") or ""),
        )

    def to_record(self, base: BaseRecord, vectors: Sequence[ReadVector], output: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``taskarith.json`` says of the edit.

        :param base: The model, as it was read.
        :param vectors: The operands, as they were read.
        :param output: What is recorded of the output.
        """
        return {
            "kind": "edit",
            "base": base.to_json(),
            "alpha": self.alpha,
            "method": self.method.record(),
            **({"scale": plain_scales(self.scale)} if self.scale else {}),
            "dtype": self.dtype,
            "operands": [_write_operand(*pair) for pair in zip(self.operands, vectors, strict=True)],
            **output,
            **{key: value for key in _RARE if (value := getattr(self, key))},
        }

    def to_recipe(self) -> dict[str, Any]:
        """Return the edit as a recipe, which has no fingerprints."""
        values = {
            "method": None if self.method.is_linear else self.method.record(),
            "scale": plain_scales(self.scale),
            "protect": [str(one) for one in self.operands if one.role == "protect"],
            "weights": next((one.name for one in self.operands if one.role == "weights"), None),
            "dtype": self.dtype_name,
            **{key: getattr(self, key) for key in _RARE},
        }
        return {
            "model": self.model,
            "operands": [plain_operand(one) for one in self.operands if not one.role],
            "alpha": self.alpha,
            **{key: value for key, value in values.items() if value},
        }

    @property
    def dtype_name(self) -> str | None:
        """The dtype as users and transformers write it."""
        return None if self.dtype is None else TORCH_NAMES[self.dtype]

    def located(self) -> Edit:
        """Return the edit with whole paths in the place of relative ones."""
        operands = tuple(replace(one, name=located(one.name), base=located(one.base)) for one in self.operands)
        return replace(self, operands=operands, model=self.model and located(self.model))


def plain_operand(one: OperandRef) -> dict[str, Any]:
    """Return a vector as recipes name it."""
    return {
        "vector": one.name,
        "coefficient": one.coefficient,
        **({"base": one.base} if one.base else {}),
        **({"scale": plain_scales(one.scale)} if one.scale else {}),
    }


def located(name: str) -> str:
    """Return the whole path of what lies on this machine, and any other name as it is."""
    return str(Path(name).resolve()) if name and exists(name) else name


def _protected(text: str) -> OperandRef:
    reference = parse_operand(text)
    if reference.coefficient != 1:
        raise UsageError(
            f"{text} is to be kept, and has a coefficient",
            f"Leave it out: --protect {replace(reference, coefficient=1.0)}",
        )
    return replace(reference, coefficient=0.0, role="protect")


def _write_operand(one: OperandRef, read: ReadVector) -> dict[str, Any]:
    return {
        "name": read.name,
        "kind": read.kind,
        "coefficient": one.coefficient,
        **({"scale": plain_scales(one.scale)} if one.scale else {}),
        **({"against_model": True} if one.against_model else {}),
        **({"role": one.role} if one.role else {}),
        "base": read.base.to_json() if read.base else None,
        "fingerprint": read.fingerprint,
    }


def _read_operand(record: Mapping[str, Any]) -> OperandRef:
    """Read what ``_write_operand`` returned; a difference to a base is one to the base that was used."""
    base = BaseRecord.named(record["base"]) if record["kind"] in _WITH_BASE and record.get("base") else None
    has_base = base is not None and base.fingerprint != ""
    # without a fingerprint it was the model: before fine-tunes had to name their base
    is_against_model = bool(record.get("against_model")) or (record["kind"] == "finetuned" and not has_base)
    operand = OperandRef(
        str(record["name"]),
        _number(record["coefficient"]),
        parse_scales(record.get("scale", {})),
        str(record["fingerprint"]),
        is_against_model,
        str(record.get("role", "")),
    )
    if base is None or not has_base or is_against_model:
        return operand
    return replace(operand, base=str(base), base_fingerprint=base.fingerprint)


def _number(value: Any) -> float:
    number = finite_number(value)
    if number is None:
        raise ValueError(f"{short(value)} is not a finite number")
    return number


def _size(value: Any) -> int | None:
    if isinstance(value, str):
        return parse_size(value)
    if type(value) is int or value is None:
        return value
    raise ValueError(f"max_shard_size {short(value)}")
