"""Edit a model that is loaded in memory: the bits that a written edit would have, and back again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Self, Unpack

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from taskarith.arithmetic.calculator import Calculator
from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, Workers, work_through
from taskarith.arithmetic.torch import TORCH_DTYPES
from taskarith.checkpoints.checkpoint import Checkpoint, open_checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.edit import Edit, EditKeywords
from taskarith.edit.inputs import kernels_of
from taskarith.edit.loaded import (
    check_numbers,
    check_shared,
    load_converted,
    main_dtype,
    not_converted,
    sharing_memory,
    undo_rescaling,
)
from taskarith.edit.operands import open_edit, read_bases, with_coefficients
from taskarith.edit.plan import EditPlan, TensorPlan, plan_edit
from taskarith.edit.remarks import own_bases
from taskarith.edit.stream import EditedTensor
from taskarith.errors import MismatchError
from taskarith.progress import SILENT, Listener
from taskarith.spec import OperandRef

__all__ = ["InMemoryEdit", "check_edit"]


def check_edit(base: Path, edit: Edit, listener: Listener = SILENT) -> list[str]:
    """Refuse vectors that do not fit, or that the method cannot use, before anything is loaded and measured.

    Returns the files that the edit reads.

    :param base: The folder of the model.
    :param edit: What is to be done.
    :param listener: Receives notes about models that are read.
    :raises TaskarithError: As ``InMemoryEdit`` does.
    """
    checkpoint = open_checkpoint(base)
    _check_scales(checkpoint, str(base))
    operands = open_edit(edit, checkpoint, listener)
    read_bases(operands, checkpoint, listener)
    return [*plan_edit(checkpoint, operands, edit).states]


class InMemoryEdit:
    """Sets a loaded model to ``base + alpha * sum c_i delta_i``, always calculated from the files of the base.

    Nothing accumulates: each ``set`` starts from the base, so ``restore`` gives it back to the bit. Results are
    rounded once to the dtype of the loaded model; where the files have that dtype, they are those of the written edit.
    What a model keeps in another dtype (some routers and norms) gets what loading the written edit gives it, and what
    comes from no file stays as it is. Use it as a context manager: it restores at the end.
    ``edit`` is what it does at an alpha of 1; ``remarks`` say which vectors are differences to another model than that.

    :param model: Loaded by transformers from ``base``, in any floating dtype, on any device or spread over several.
    :param base: The folder or id it was loaded from.
    :param add: Vectors with optional coefficients, as on the command line.
    :param negate: Likewise, subtracted.
    :param options: By name, as in ``apply``: ``method``, ``scale``, ``protect`` and ``weights``; ``operands`` are more
        vectors, each with a coefficient and a scale of its own.
    :raises VectorError: A vector is missing or of a kind that cannot be used.
    :raises MismatchError: A vector does not fit the base, the model that it was made from is not found, the model is
        quantised or partly not in memory, the result is not finite, or it would be two tensors where the model has one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        base: str,
        add: Sequence[str] = (),
        negate: Sequence[str] = (),
        **options: Unpack[EditKeywords],
    ) -> None:
        self.edit = Edit.from_options(add, negate, **options)
        self._model, self._checkpoint = model, open_checkpoint(resolve_model(base).path)
        _check_scales(self._checkpoint, base)
        self._operands = open_edit(self.edit, self._checkpoint)
        read_bases(self._operands, self._checkpoint)
        self.remarks = own_bases(self._operands)
        self._touched = {name for one in self._operands for name in (*one.vector.shapes, *one.tied)}
        self._is_direct = self._names_match()

    @classmethod
    def of(cls, model: PreTrainedModel, base: str, edit: Edit) -> Self:
        """Return the same of an edit that has been read already."""
        return cls(model, base, operands=edit.operands, scale=edit.scale, method=edit.method)

    def set(self, alpha: float, references: Sequence[OperandRef] | None = None) -> None:
        """Give the model the weights of the edit at ``alpha``.

        :param references: The same vectors, in the order of ``references``, with other coefficients and scales.
        """
        operands = self.edit.operands if references is None else tuple(references)
        self.make(replace(self.edit, alpha=alpha, operands=operands))

    def make(self, edit: Edit) -> None:
        """Give the model the weights of another edit by the same vectors and method."""
        self._load(plan_edit(self._checkpoint, with_coefficients(self._operands, edit, self._checkpoint), edit))

    def restore(self) -> None:
        """Give the model the weights of the base, bit for bit."""
        self.set(0.0)

    @property
    def references(self) -> tuple[OperandRef, ...]:
        """The vectors, those that are only looked at last."""
        return self.edit.operands

    @property
    def dimensions(self) -> dict[str, int]:
        """Names of all tensors of the base, as scales name them, and how many dimensions each has."""
        return {name: len(entry.shape) for name, entry in self._checkpoint.tensors.items()}

    def fingerprint(self) -> str:
        """Return a fingerprint of all that decides what an edit at alpha 1 gives: files, coefficients, method."""
        return plan_edit(self._checkpoint, self._operands, self.edit).fingerprint()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def _names_match(self) -> bool:
        """Return whether the tensors that are edited are in the files as they are in memory.

        :raises MismatchError: They are, but not with numbers that can be edited.
        """
        state, stored = self._model.state_dict(), self._checkpoint.tensors
        if any(name not in state or state[name].shape != stored[name].shape for name in self._touched):
            return False
        check_numbers({name: state[name] for name in self._touched})
        return True

    @torch.no_grad()
    def _load(self, plan: EditPlan) -> None:
        undo_rescaling(self._model)
        state = self._model.state_dict()
        shared = sharing_memory(state)
        if self._is_direct:
            partners = {name for name in shared if name in self._checkpoint.tensors}
            self._write(plan, state, {*self._touched, *partners} if self._touched & shared else self._touched, shared)
        else:
            self._convert(plan, state, shared)

    def _write(
        self, plan: EditPlan, state: Mapping[str, torch.Tensor], names: Collection[str], shared: Collection[str]
    ) -> None:
        """Write edited tensors over those of the same names in memory."""
        written: dict[str, torch.Tensor] = {}

        def put(name: str, values: torch.Tensor) -> None:
            state[name].copy_(values)
            if name in shared:
                written[name] = values

        dtype = main_dtype(state)
        _calculate(plan, {name: dtype if state[name].dtype == dtype else None for name in names}, put)
        check_shared(state, written)

    def _convert(self, plan: EditPlan, state: Mapping[str, torch.Tensor], shared: Collection[str]) -> None:
        """Let transformers convert the files' names and shapes to those in memory, as it does when it loads a model.

        Which tensor in memory one of a file becomes a part of is its affair. So where it may matter, all are calculated
        twice, in the model's dtype and as they would be written, and what the model keeps in other dtypes is taken from
        the second.
        """
        if getattr(self._model, "hf_quantizer", None) is not None:
            raise not_converted("it is quantised")
        check_numbers({name: values for name, values in state.items() if values.is_floating_point()})
        loaded: dict[str, torch.Tensor] = {}
        main = main_dtype(state)
        others = {values.dtype for values in state.values() if values.is_floating_point()} - {main}
        files = {TORCH_DTYPES[entry.dtype] for entry in self._checkpoint.tensors.values() if entry.is_float}
        for dtype in (main, None) if others and files != {main} else (main,):
            edited: dict[str, torch.Tensor] = {}
            _calculate(plan, dict.fromkeys(self._checkpoint.tensors, dtype), edited.__setitem__)
            found = load_converted(self._model, edited, main)
            if any(name not in state or state[name].shape != values.shape for name, values in found.items()):
                raise not_converted("its layers are not those that transformers loads")
            for name, values in found.items():
                if dtype or state[name].dtype != main:
                    state[name].copy_(values)
                    loaded |= {name: values} if name in shared else {}
        check_shared(state, loaded)


def _check_scales(checkpoint: Checkpoint, base: str) -> None:
    if checkpoint.scalings:
        raise MismatchError(
            f"{base} is stored as float8 with scales, which are not edited in memory",
            "Write the edit with taskarith apply, and load that.",
        )


def _calculate(
    plan: EditPlan, dtypes: Mapping[str, torch.dtype | None], put: Callable[[str, torch.Tensor], object]
) -> None:
    """Calculate edited tensors, each rounded once to a dtype; those that nothing is added to are given as stored.

    :param dtypes: Of the tensors to calculate; None is that of the file.
    :param put: Takes name and values of each tensor, several at a time.
    """
    wanted = [tensor for tensor in plan.tensors if tensor.source.name in dtypes]
    for name, values in _stored(tensor for tensor in wanted if not tensor.terms):
        put(name, values)
    broken: list[str] = []
    names = {dtype: name for name, dtype in TORCH_DTYPES.items()}
    with TensorReader() as reader:

        def do(tensor: TensorPlan, calculator: Calculator, stop: threading.Event) -> int:
            name = tensor.source.name
            dtype = dtypes[name] or TORCH_DTYPES[tensor.dtype]
            work = EditedTensor(plan, tensor, reader, calculator, names[dtype])
            values = torch.empty(tensor.source.shape, dtype=dtype)
            whole, position, is_finite = values.flatten().view(torch.uint8).numpy(), 0, True
            for data, finite in work.pieces(CHUNK_ELEMENTS, stop):
                whole[position : position + len(data)] = data
                position, is_finite = position + len(data), is_finite and finite
            if not stop.is_set():
                work.fingerprints()  # refuses an exact vector of another base, and damaged deltas
            if not is_finite:
                broken.append(name)
            put(name, values)
            return tensor.nbytes

        tasks = sorted((tensor for tensor in wanted if tensor.terms), key=lambda tensor: -tensor.nbytes)
        total = sum(tensor.nbytes for tensor in tasks)
        workers = Workers(uses_torch=plan.edit.method.needs_torch, kernels=kernels_of(plan))
        work_through(tasks, do, SILENT, "editing in memory", total, workers)
    if broken:
        raise MismatchError(
            f"the edited {broken[0]} has values that are not finite",
            "Infinities or NaN in an input, or an overflow of the model's dtype: check the inputs, or use float32.",
        )


def _stored(tensors: Iterable[TensorPlan]) -> Iterator[tuple[str, torch.Tensor]]:
    """Read tensors as they are in the files."""
    for path, group in groupby(tensors, key=lambda tensor: tensor.source.path):
        with safe_open(path, "pt") as file:
            for tensor in group:
                yield tensor.source.name, file.get_tensor(tensor.source.name)
