"""The operands of one edit: opened vectors with their coefficients, checked against the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import MismatchError, UsageError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.spec import OperandRef, parse_operand
from taskarith.vectors.form import Vector
from taskarith.vectors.open import open_vector
from taskarith.vectors.pair import find_tied

__all__ = ["Operand", "open_operands", "parse_operands"]


@dataclass(frozen=True)
class Operand:
    """A vector that fits the base, and what it is multiplied by.

    :param vector: The opened vector.
    :param coefficient: Sign included.
    :param tied: Tensors of the base, mapped to the tensor whose delta they take.
    """

    vector: Vector
    coefficient: float
    tied: dict[str, str]

    def delta_of(self, tensor: str) -> str | None:
        """Return the name of the delta that moves a tensor of the base, or None."""
        name = self.tied.get(tensor, tensor)
        return name if name in self.vector.shapes else None


def parse_operands(add: Sequence[str], negate: Sequence[str]) -> list[OperandRef]:
    """Read the values of ``--add`` and ``--negate``.

    :raises UsageError: There is none, or a coefficient cannot be read.
    """
    references = [parse_operand(text) for text in add] + [parse_operand(text, -1.0) for text in negate]
    if not references:
        raise UsageError("no vector is given", "Name one with --negate V or --add V, as in --negate forget.safetensors")
    return references


def open_operands(references: Sequence[OperandRef], base: Checkpoint, listener: Listener = SILENT) -> list[Operand]:
    """Open the vectors and check that each fits the base.

    :raises VectorError: A vector is missing or of a kind that cannot be used.
    :raises MismatchError: A vector does not fit the base.
    """
    operands = []
    for reference in references:
        vector = open_vector(reference.name, base, listener)
        operands.append(Operand(vector, reference.coefficient, _fit(vector, base)))
    return operands


def _fit(vector: Vector, base: Checkpoint) -> dict[str, str]:
    absent = [name for name in vector.shapes if name not in base.tensors]
    if absent:
        raise MismatchError(
            f"{len(absent)} tensors of {vector.name} are not in {base.path}: {name_some(absent)}",
            f"It was made from {vector.base or 'another model'}: apply it to a model of that architecture.",
        )
    wrong = [
        f"{name} {list(shape)} against {list(base.tensors[name].shape)}"
        for name, shape in vector.shapes.items()
        if base.tensors[name].shape != shape or not base.is_editable(name)
    ]
    if wrong:
        raise MismatchError(
            f"{len(wrong)} tensors of {vector.name} do not have the shape that {base.path} has: {name_some(wrong)}",
            f"It was made from {vector.base or 'another model'}: apply it to a model of that size.",
        )
    return _cover(vector, base)


def _cover(vector: Vector, base: Checkpoint) -> dict[str, str]:
    """Find what a complete vector says of each tensor of the base: a delta, nothing to do, or tied to another."""
    tied = {name: to for name, to in vector.tied.items() if name in base.tensors}
    if vector.known is None:
        return tied
    scales = {scaling.scale.name for scaling in base.scalings.values()}
    alone = [name for name in base.tensors if name not in vector.known and name not in tied and name not in scales]
    if alone:
        with TensorReader() as reader:
            tied |= find_tied(base, set(vector.known), reader)
    lost = [name for name in alone if name not in tied]
    if lost:
        raise MismatchError(
            f"{len(lost)} tensors of {base.path} are unknown to {vector.name}: {name_some(lost)}",
            f"It was made from {vector.base or 'another model'}: apply it to a model of that architecture.",
        )
    return tied
