"""Task vectors and models as values of an algebra: ``edited = model - 0.8 * vector``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from taskarith.checkpoints.checkpoint import Checkpoint, open_checkpoint
from taskarith.checkpoints.dtypes import TORCH_NAMES
from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.apply import ApplyResult, apply
from taskarith.edit.combine import CombineResult, combine
from taskarith.edit.deltas import Terms, inner_products, read_delta, shapes_of
from taskarith.edit.edit import Edit
from taskarith.edit.operands import Operand, open_operands, read_bases
from taskarith.errors import UsageError
from taskarith.progress import SILENT, Listener
from taskarith.spec import OperandRef, parse_operand
from taskarith.vectors.file import VectorFile
from taskarith.vectors.open import choose_base, open_packed
from taskarith.vectors.vector import BaseRecord, Vector

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = ["Model", "TaskVector"]


@dataclass(frozen=True)
class TaskVector:
    """A sum of task vectors, each times a coefficient: ``0.5 * a - b``. Only headers are read until numbers are needed.

    The order in which a sum is written makes no difference to any bit: equal sums compare equal.

    :param terms: The vectors and their coefficients, each vector once; see ``open`` and ``between``.
    """

    terms: tuple[OperandRef, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", _collected(self.terms))

    @classmethod
    def open(cls, name: str | Path, *, base: str | Path | None = None) -> Self:
        """Open a task vector of any form.

        :param name: A vector file, an adapter folder or a fine-tuned model; with a coefficient if one follows, as in
            ``forget.safetensors:0.3``.
        :param base: The model that a fine-tune or an adapter was trained from, where it does not record it.
        :raises UsageError: Nothing says what a fine-tune is a difference to.
        :raises VectorError: It is missing or of a kind that cannot be used.
        :raises MismatchError: It does not fit its base, or that is not found.
        """
        term = parse_operand(str(name))
        opened = cls((replace(term, base=str(base)) if base is not None else term,))
        opened._vectors  # noqa: B018 what cannot be opened is refused now
        return opened

    @classmethod
    def between(cls, base: str | Path, finetuned: str | Path) -> Self:
        """Return ``finetuned - base``, which is subtracted while it is read.

        :param base: Folder or hub id of the model that was trained.
        :param finetuned: Of what came of it.
        :raises CheckpointError: One of them is missing or broken.
        :raises MismatchError: They do not fit.
        """
        return cls.open(finetuned, base=base)

    def __add__(self, other: TaskVector) -> TaskVector:
        return TaskVector((*self.terms, *other.terms)) if isinstance(other, TaskVector) else NotImplemented

    def __sub__(self, other: TaskVector) -> TaskVector:
        return self + -other if isinstance(other, TaskVector) else NotImplemented

    def __mul__(self, factor: float) -> TaskVector:
        if not _is_number(factor):
            return NotImplemented
        return TaskVector(tuple(replace(term, coefficient=term.coefficient * factor) for term in self.terms))

    def __truediv__(self, divisor: float) -> TaskVector:
        return self * (1 / divisor) if _is_number(divisor) else NotImplemented

    def __neg__(self) -> TaskVector:
        return self * -1.0

    __rmul__ = __mul__

    @property
    def base(self) -> BaseRecord | None:
        """The model that the first term was made from; None where that is not recorded."""
        return self._vectors[0].base

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name and shape of every tensor that a term moves."""
        return shapes_of(self._sum)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, tensor: object) -> bool:
        return tensor in self.shapes

    def __getitem__(self, tensor: str) -> torch.Tensor:
        """Return the delta of one tensor, float64, of the shape of the tensor: evaluated in float64, rounded once.

        :raises KeyError: No term moves this tensor.
        """
        import torch

        if tensor not in self.shapes:
            raise KeyError(tensor)
        return torch.from_numpy(read_delta(self._sum, tensor))

    def norm(self) -> float:
        """Return the Euclidean norm over all tensors: products and sums in float64, one whole tensor in memory."""
        (square,) = inner_products(self._sum)
        return math.sqrt(square)

    def cosine(self, other: TaskVector) -> float | None:
        """Return the cosine of two vectors over all tensors, from -1 to 1; None if either is zero.

        :param other: A vector of the same base; what only one of them moves counts as zero in the other.
        :raises MismatchError: A tensor has another shape in the other vector.
        """
        own, its, both = inner_products(self._sum, other._sum)
        size = math.sqrt(own) * math.sqrt(its)
        return max(-1.0, min(1.0, both / size)) if size else None

    def save(self, path: str | Path, **options: Any) -> CombineResult:
        """Write it as one task vector; see ``combine``, which takes the same options.

        :param path: A file, ``*.safetensors``; or a folder, where all terms are adapters.
        """
        return combine(self.terms, path, **options)

    def __repr__(self) -> str:
        elements = sum(map(math.prod, self.shapes.values()))
        written = _written(self.terms).removeprefix(" + ").removeprefix(" ")
        return f"TaskVector({written}: {len(self)} tensors, {elements:,} parameters, of {self.base})"

    @property
    def _sum(self) -> Terms:
        return [(term.coefficient, vector) for term, vector in zip(self.terms, self._vectors, strict=True)]

    @cached_property
    def _vectors(self) -> tuple[Vector, ...]:
        """The opened vector of each term: files as they are, all others against the first base that a term names."""
        if all(_stands_alone(term) for term in self.terms):
            return tuple(open_packed(Path(term.name)) for term in self.terms)
        return tuple(operand.vector for operand in self._operands())

    def _operands(self, listener: Listener = SILENT) -> list[Operand]:
        checkpoint = choose_base(None, self.terms, "Name it: TaskVector.open(..., base=MODEL)", listener).open()
        operands = open_operands(self.terms, checkpoint, listener)
        read_bases(operands, checkpoint, listener)
        return operands


@dataclass(frozen=True)
class Model:
    """A model on disk or on the hub, and what is added to it. Nothing is written or loaded before it is asked for.

    :param name: Folder, hub id or GGUF file.
    :param vector: What is added; None is nothing.
    """

    name: str
    vector: TaskVector | None = None

    @classmethod
    def open(cls, name: str | Path) -> Self:
        """Open a model: its headers are read, and a model of the hub is downloaded.

        :raises CheckpointError: It is missing or broken.
        """
        open_checkpoint(resolve_model(str(name)).path)
        return cls(str(name))

    def __add__(self, other: TaskVector) -> Model:
        if not isinstance(other, TaskVector):
            return NotImplemented
        return replace(self, vector=other if self.vector is None else self.vector + other)

    def __sub__(self, other: TaskVector) -> Model:
        return self + -other if isinstance(other, TaskVector) else NotImplemented

    def save(self, output_dir: str | Path, **options: Any) -> ApplyResult:
        """Write the edited model; see ``apply``, which takes the same options and gives the same bits.

        :raises UsageError: Nothing was added to the model.
        """
        return apply(self.name, operands=self._added().terms, output_dir=output_dir, **options)

    def load(
        self, dtype: torch.dtype | None = None, device: str = "cpu", *, trust_remote_code: bool = False
    ) -> PreTrainedModel:
        """Load the model into memory, edited there; its weights are those that ``save`` writes, where dtypes are equal.

        :param dtype: Of the weights in memory; None is that of the files.
        :param device: Where to.
        :param trust_remote_code: Run Python code that comes with the model.
        :raises CheckpointError: transformers cannot load it.
        :raises MismatchError: The vectors do not fit, or the model cannot be edited in memory.
        """
        import torch

        from taskarith.edit.in_memory import InMemoryEdit
        from taskarith.models.load import load_model

        path = resolve_model(self.name).path
        dtype = dtype or _main_dtype(open_checkpoint(path))
        model = load_model(path, dtype, trust_remote_code=trust_remote_code)
        model.to(torch.device(device))
        if self.vector is not None:
            InMemoryEdit.of(model, self.name, Edit(self.vector.terms)).set(1.0)
        return model

    def __repr__(self) -> str:
        return f"Model({self.name}{_written(self.vector.terms) if self.vector else ''})"

    def _added(self) -> TaskVector:
        if self.vector is None:
            raise UsageError(f"nothing is added to {self.name}", "Add a vector, as in model - 0.8 * vector.")
        return self.vector


def _main_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Return the dtype that most of a model's numbers are stored in."""
    counts: Counter[str] = Counter()
    for entry in checkpoint.tensors.values():
        counts[entry.dtype] += entry.elements if entry.is_float else 0
    import torch

    return getattr(torch, TORCH_NAMES[max(counts, key=counts.__getitem__)])


def _collected(terms: Iterable[OperandRef]) -> tuple[OperandRef, ...]:
    """Return each vector once, with the sum of its coefficients, in an order of their own."""
    found: dict[tuple[str, str], OperandRef] = {}
    for term in terms:
        known = found.get((term.name, term.base))
        coefficient = term.coefficient + (known.coefficient if known else 0.0)
        found[term.name, term.base] = replace(term, coefficient=_finite(coefficient, term.name))
    return tuple(found[key] for key in sorted(found))


def _finite(coefficient: float, name: str) -> float:
    if not math.isfinite(coefficient):
        raise UsageError(f"the coefficient of {name} would be {coefficient}", "Use numbers that floats can hold.")
    return coefficient


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)


def _stands_alone(term: OperandRef) -> bool:
    """Tell whether a vector can be read without its base."""
    return not term.base and Path(term.name).is_file() and VectorFile(Path(term.name)).kind != "exact"


def _written(terms: tuple[OperandRef, ...]) -> str:
    """Write a sum as one would type it after a model: `` + a - 0.8 * b``."""
    signs = ["-" if math.copysign(1.0, term.coefficient) < 0 else "+" for term in terms]
    sizes = ["" if abs(term.coefficient) == 1 else f"{abs(term.coefficient):g} * " for term in terms]
    names = [Path(term.name).name for term in terms]
    return "".join(f" {sign} {size}{name}" for sign, size, name in zip(signs, sizes, names, strict=True))
