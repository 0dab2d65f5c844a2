"""What an edit will do to each tensor, known before the first byte is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from taskarith.checkpoints.checkpoint import WEIGHTS_NAME, Checkpoint
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry, build_header
from taskarith.checkpoints.provenance import release
from taskarith.checkpoints.reader import file_states, fingerprint_bytes
from taskarith.edit.edit import Edit
from taskarith.edit.operands import Operand
from taskarith.merging.methods import check_operands
from taskarith.vectors.vector import Difference, Packed, Stored

__all__ = ["EditPlan", "ShardPlan", "TensorPlan", "Term", "plan_edit"]


@dataclass(frozen=True)
class Term:
    """One summand of an edited tensor: which operand, which of its deltas, times what.

    The coefficient is zero where the operand is not added and the method only looks at it.
    """

    operand: int
    delta: str
    coefficient: float


@dataclass(frozen=True)
class TensorPlan:
    """What happens to one tensor.

    :param source: The tensor of the base.
    :param action: ``edited``; ``tied`` (edited with the delta of the tensor that it repeats); ``copied`` (the same
        bytes); ``converted`` (only the dtype changes); ``requantised`` (float8 with scales, edited) or ``rescaled``
        (the scales that belong to it).
    :param dtype: Dtype of the output, as safetensors names it.
    :param offset: Where its bytes go in the output shard.
    :param terms: What is added, then what the method looks at; empty unless edited or tied.
    """

    source: TensorEntry
    action: str
    dtype: str
    offset: int
    terms: tuple[Term, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the output."""
        return self.source.elements * ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class ShardPlan:
    """One output file: its name, its header bytes, its tensors."""

    name: str
    header: bytes
    tensors: tuple[TensorPlan, ...]

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class EditPlan:
    """The whole edit.

    :param base: The checkpoint that is read.
    :param operands: The vectors, in the order in which they were given.
    :param edit: What is to be done; its alpha is contained in the terms.
    :param shards: The files to write.
    :param states: What tells whether an input has changed since.
    """

    base: Checkpoint
    operands: tuple[Operand, ...]
    edit: Edit
    shards: tuple[ShardPlan, ...]
    states: dict[str, list[int]]

    @property
    def tensors(self) -> list[TensorPlan]:
        """All tensors, in output order."""
        return [tensor for shard in self.shards for tensor in shard.tensors]

    @property
    def whole_tensors(self) -> list[TensorPlan]:
        """The tensors whose deltas have to be in memory as a whole."""
        needs = self.edit.method.needs_whole_tensors
        return [tensor for tensor in self.tensors if needs and tensor.terms and len(tensor.source.shape) == 2]

    @property
    def actions(self) -> Counter[str]:
        """Number of tensors by action."""
        return Counter(tensor.action for tensor in self.tensors)

    def fingerprint(self) -> str:
        """Return a fingerprint of all that decides the bytes of the output, on this machine."""
        return fingerprint_bytes(json.dumps(["edit", self.decisions(), self.states]).encode())

    def decisions(self) -> str:
        """Return a fingerprint of the same without the inputs' contents: it does not depend on where they lie."""
        tensors = [(one.action, one.offset, [_exactly(term) for term in one.terms]) for one in self.tensors]
        shards = [(shard.name, shard.header.hex()) for shard in self.shards]
        operands = [one.decisions() for one in self.operands]
        blocks = {
            name: (one.scale.name, one.rows, one.columns, one.across, one.grid)
            for name, one in self.base.scalings.items()
        }
        how = [self.edit.method.record(), float(self.edit.alpha).hex(), self.edit.dtype, release()]
        return fingerprint_bytes(json.dumps([*how, shards, tensors, operands, blocks]).encode())

    @property
    def write_bytes(self) -> int:
        """Bytes of all output shards."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def read_bytes(self) -> int:
        """Bytes that are read once or more; of adapters, which are small, nothing is counted."""
        return sum(self._input_bytes(tensor) for tensor in self.tensors)

    def _input_bytes(self, tensor: TensorPlan) -> int:
        packed, stored = 0, [tensor.source]
        for term in tensor.terms:
            vector = self.operands[term.operand].vector
            match None if vector.kind == "lora" else vector.delta(term.delta):
                case Stored(delta):
                    stored.append(delta)
                case Difference(finetuned, base):
                    stored += [finetuned, base]
                case Packed(nbytes=size):
                    packed += size
        return packed + sum({(one.path, one.offset): one.nbytes for one in stored}.values())


def plan_edit(base: Checkpoint, operands: Sequence[Operand], edit: Edit) -> EditPlan:
    """Decide what happens to each tensor and where its bytes go.

    An operand whose coefficient, times its factor for a tensor, times alpha is zero adds nothing there: where none adds
    anything, the base is copied.

    :param base: The checkpoint to edit.
    :param operands: The vectors of the edit, opened for it.
    :param edit: What is to be done.
    :raises UsageError: The method is not defined on these operands.
    """
    added = [one for one in operands if not one.role]
    roles = [one.role for one in operands if one.role]
    check_operands(edit.method, [one.coefficient for one in added], [one.vector.kind for one in added], roles)
    shards, dtype = [], edit.dtype
    for name, group in _layout(base, dtype, edit.max_shard_size):
        described = [(tensor.name, _output_dtype(tensor, dtype), tensor.shape) for tensor in group]
        header, offsets = build_header(described, _metadata(base, group))
        tensors = tuple(_tensor_plan(tensor, operands, edit.alpha, dtype, offsets[tensor.name]) for tensor in group)
        shards.append(ShardPlan(name, header, tensors))
    if base.scalings:
        shards = _with_scales(base, shards)
    files = {tensor.path for tensor in base.tensors.values()}
    states = file_states(files.union(*(operand.vector.files for operand in operands)))
    return EditPlan(base, tuple(operands), edit, tuple(shards), states)


def _exactly(term: Term) -> tuple[int, str, str]:
    return term.operand, term.delta, float(term.coefficient).hex()


def _with_scales(base: Checkpoint, shards: Sequence[ShardPlan]) -> list[ShardPlan]:
    """Mark the float8 weights that are edited, and their scales."""
    edited = {one.source.name for shard in shards for one in shard.tensors if one.terms} & base.scalings.keys()
    actions = dict.fromkeys(edited, "requantised") | {base.scalings[name].scale.name: "rescaled" for name in edited}
    return [
        replace(
            shard,
            tensors=tuple(replace(one, action=actions.get(one.source.name, one.action)) for one in shard.tensors),
        )
        for shard in shards
    ]


def _tensor_plan(
    tensor: TensorEntry, operands: Sequence[Operand], alpha: float, dtype: str | None, offset: int
) -> TensorPlan:
    deltas = [operand.delta_of(tensor.name) for operand in operands]
    all_terms = [
        Term(index, delta, operand.coefficient_of(delta) * alpha)
        for index, (operand, delta) in enumerate(zip(operands, deltas, strict=True))
        if delta is not None
    ]
    terms = tuple(term for term in all_terms if term.coefficient != 0)
    output = _output_dtype(tensor, dtype)
    if terms:
        action = "edited" if all(term.delta == tensor.name for term in terms) else "tied"
        terms += tuple(term for term in all_terms if operands[term.operand].role)
    else:
        action = "copied" if output == tensor.dtype else "converted"
    return TensorPlan(tensor, action, output, offset, terms)


def _output_dtype(tensor: TensorEntry, dtype: str | None) -> str:
    return dtype if dtype and tensor.is_float else tensor.dtype


def _layout(
    base: Checkpoint, dtype: str | None, max_shard_size: int | None
) -> list[tuple[str, tuple[TensorEntry, ...]]]:
    if max_shard_size is None:
        return [(shard.name, shard.tensors) for shard in base.shards]
    groups: list[list[TensorEntry]] = [[]]
    size = 0
    for tensor in base.tensors.values():
        nbytes = tensor.elements * ITEM_SIZES[_output_dtype(tensor, dtype)]
        if groups[-1] and size + nbytes > max_shard_size:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += nbytes
    if len(groups) == 1:
        return [(WEIGHTS_NAME, tuple(groups[0]))]
    count = len(groups)
    return [(f"model-{index:05}-of-{count:05}.safetensors", tuple(group)) for index, group in enumerate(groups, 1)]


def _metadata(base: Checkpoint, group: Sequence[TensorEntry]) -> dict[str, str]:
    files = {tensor.path.name for tensor in group}
    merged: dict[str, str] = {}
    for shard in base.shards:
        if shard.name in files or not group:
            merged |= shard.metadata
    return merged
