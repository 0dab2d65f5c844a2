"""Edit a model that is loaded in memory: the bits that a written edit would have, and back again."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, work_through
from taskarith.arithmetic.recipe import Calculator
from taskarith.arithmetic.tensors import TORCH_DTYPES
from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.method import LINEAR, Method
from taskarith.edit.operands import Operand, open_operands, parse_operands, with_coefficients
from taskarith.edit.plan import EditPlan, TensorPlan, plan_edit
from taskarith.edit.stream import EditedTensor
from taskarith.errors import MismatchError
from taskarith.progress import SILENT
from taskarith.spec import OperandRef, parse_scales

__all__ = ["InMemoryEdit"]


class InMemoryEdit:
    """Sets a loaded model to ``base + alpha * sum c_i delta_i``, always calculated from the files of the base.

    Nothing accumulates: each ``set`` starts from the base, so ``restore`` gives it back to the bit. Results are
    rounded once to the dtype of the loaded model. Use it as a context manager: it restores at the end.

    :param model: Loaded by transformers from ``base``, in any floating dtype, on any device.
    :param base: The folder or id it was loaded from.
    :param add: Vectors with optional coefficients, as on the command line.
    :param negate: Likewise, subtracted.
    :param method: How the deltas of several operands become one; see ``edit.method.parse_method``.
    :param scale: Multiplies the coefficients tensor by tensor, as in ``apply``.
    :param protect: What method ``project`` looks at, as in ``apply``.
    :param weights: What method ``perta`` looks at, as in ``apply``.
    :param operands: More vectors, each with a coefficient and a scale of its own.
    :ivar references: The vectors, those that are only looked at last.
    :raises VectorError: A vector is missing or of a kind that cannot be used.
    :raises MismatchError: A vector does not fit the base, or the result is not finite.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        base: str,
        add: Sequence[str] = (),
        negate: Sequence[str] = (),
        *,
        method: Method = LINEAR,
        scale: Mapping[str, Any] | Sequence[str] = (),
        protect: Sequence[str] = (),
        weights: str | None = None,
        operands: Sequence[OperandRef] = (),
    ) -> None:
        self._model, self._method = model, method
        self._checkpoint = open_checkpoint(resolve_model(base).path)
        if self._checkpoint.scalings:
            raise MismatchError(
                f"{base} is stored as float8 with scales, which are not edited in memory",
                "Write the edit with taskarith apply, and load that.",
            )
        self.references = parse_operands(add, negate, operands, protect=protect, weights=weights)
        self._scale = parse_scales(scale)
        self._operands = open_operands(self.references, self._checkpoint, scale=self._scale)
        self._is_direct = self._names_match()

    def set(self, alpha: float, references: Sequence[OperandRef] | None = None) -> None:
        """Give the model the weights of the edit at ``alpha``.

        :param references: The same vectors, in the order of ``references``, with other coefficients and scales.
        """
        operands: Sequence[Operand] = self._operands
        if references is not None:
            operands = with_coefficients(operands, references, self._checkpoint, self._scale)
        self._load(plan_edit(self._checkpoint, operands, alpha, method=self._method))

    def restore(self) -> None:
        """Give the model the weights of the base, bit for bit."""
        self._load(plan_edit(self._checkpoint, self._operands, 0.0, method=self._method))

    @property
    def dimensions(self) -> dict[str, int]:
        """Names of all tensors of the base, as scales name them, and how many dimensions each has."""
        return {name: len(entry.shape) for name, entry in self._checkpoint.tensors.items()}

    def fingerprint(self) -> str:
        """Return a fingerprint of all that decides what an edit at alpha 1 gives: files, coefficients, method."""
        return plan_edit(self._checkpoint, self._operands, 1.0, method=self._method).fingerprint()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def _names_match(self) -> bool:
        state = self._model.state_dict()
        touched = [name for operand in self._operands for name in (*operand.vector.shapes, *operand.tied)]
        return all(name in state and state[name].shape == self._checkpoint.tensors[name].shape for name in touched)

    @torch.no_grad()
    def _load(self, plan: EditPlan) -> None:
        state = self._model.state_dict()
        touched = {name for operand in self._operands for name in (*operand.vector.shapes, *operand.tied)}
        if self._is_direct:
            self._calculate(plan, {name: state[name] for name in touched})
            return
        # the files use other names or other shapes than the modules: let transformers convert them as it loads
        edited = {}
        for name, entry in self._checkpoint.tensors.items():
            if entry.is_float:
                edited[name] = torch.empty(entry.shape, dtype=self._model.dtype)
            else:
                with safe_open(entry.path, "pt") as file:
                    edited[name] = file.get_tensor(name)
        self._calculate(plan, {name: values for name, values in edited.items() if values.is_floating_point()})
        converted = type(self._model).from_pretrained(
            None, config=self._model.config, state_dict=edited, dtype=self._model.dtype
        )
        for name, values in converted.state_dict().items():
            state[name].copy_(values)

    def _calculate(self, plan: EditPlan, targets: dict[str, torch.Tensor]) -> None:
        """Write edited tensors over the tensors of their names."""
        broken: list[str] = []
        names = {dtype: name for name, dtype in TORCH_DTYPES.items()}
        with TensorReader() as reader:

            def do(tensor: TensorPlan, calculator: Calculator, stop: threading.Event) -> int:
                name = tensor.source.name
                work = EditedTensor(plan, tensor, reader, calculator, names[self._model.dtype])
                values = torch.empty(tensor.source.shape, dtype=self._model.dtype)
                whole, position, is_finite = values.flatten().view(torch.uint8).numpy(), 0, True
                for data, finite in work.pieces(CHUNK_ELEMENTS, stop):
                    whole[position : position + len(data)] = data
                    position, is_finite = position + len(data), is_finite and finite
                if not stop.is_set():
                    work.prints()  # refuses an exact vector of another base, and damaged deltas
                if tensor.terms and not is_finite:
                    broken.append(name)
                targets[name].copy_(values)
                return tensor.nbytes

            tasks = sorted((t for t in plan.tensors if t.source.name in targets), key=lambda t: -t.nbytes)
            total, is_torch = sum(tensor.nbytes for tensor in tasks), plan.method.needs_torch
            work_through(tasks, do, SILENT, "editing in memory", total, uses_torch=is_torch)
        if broken:
            raise MismatchError(
                f"the edited {broken[0]} has values that are not finite",
                "Infinities or NaN in an input, or an overflow of the model's dtype: check the inputs, or use float32.",
            )
