"""Edit a model that is loaded in memory: the bits that a written edit would have, and back again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, filled_chunks, work_through
from taskarith.arithmetic.recipe import Calculator
from taskarith.arithmetic.tensors import TORCH_DTYPES
from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.calculation import calculated, calculation, open_inputs, term_prints
from taskarith.edit.operands import open_operands, parse_operands
from taskarith.edit.plan import EditPlan, TensorPlan, plan_edit
from taskarith.errors import MismatchError
from taskarith.progress import SILENT

__all__ = ["InMemoryEdit"]


class InMemoryEdit:
    """Sets a loaded model to ``base + alpha * sum c_i delta_i``, always calculated from the files of the base.

    Nothing accumulates: each ``set`` starts from the base, so ``restore`` gives it back to the bit. Results are
    rounded once to the dtype of the loaded model. Use it as a context manager: it restores at the end.

    :param model: Loaded by transformers from ``base``, in any floating dtype, on any device.
    :param base: The folder or id it was loaded from.
    :param add: Vectors with optional coefficients, as on the command line.
    :param negate: Likewise, subtracted.
    :raises VectorError: A vector is missing or of a kind that cannot be used.
    :raises MismatchError: A vector does not fit the base, or the result is not finite.
    """

    def __init__(self, model: PreTrainedModel, base: str, add: Sequence[str] = (), negate: Sequence[str] = ()) -> None:
        self._model = model
        self._checkpoint = open_checkpoint(resolve_model(base).path)
        if self._checkpoint.scalings:
            raise MismatchError(
                f"{base} is stored as float8 with scales, which are not edited in memory",
                "Write the edit with taskarith apply, and load that.",
            )
        self._operands = open_operands(parse_operands(add, negate), self._checkpoint)
        self._is_direct = self._names_match()

    def set(self, alpha: float) -> None:
        """Give the model the weights of the edit at ``alpha``."""
        self._load(plan_edit(self._checkpoint, self._operands, alpha))

    def restore(self) -> None:
        """Give the model the weights of the base, bit for bit."""
        self._load(plan_edit(self._checkpoint, self._operands, 0.0))

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
                what = calculation(plan, tensor, names[self._model.dtype])
                calculator.begin(what.recipe)
                inputs = open_inputs(what, reader, calculator)
                values = torch.empty(tensor.source.shape, dtype=self._model.dtype)
                whole, position, is_finite = values.flatten().view(torch.uint8).numpy(), 0, True
                for start, end in filled_chunks(calculator, inputs, tensor.source.elements, CHUNK_ELEMENTS, stop):
                    data, finite = calculated(what, calculator, start, end)
                    whole[position : position + len(data)] = data
                    position, is_finite = position + len(data), is_finite and finite
                if not stop.is_set():
                    term_prints(what, inputs)  # refuses an exact vector of another base
                if tensor.terms and not is_finite:
                    broken.append(name)
                targets[name].copy_(values)
                return tensor.nbytes

            tasks = sorted((t for t in plan.tensors if t.source.name in targets), key=lambda t: -t.nbytes)
            work_through(tasks, do, SILENT, "editing in memory", sum(tensor.nbytes for tensor in tasks))
        if broken:
            raise MismatchError(
                f"the edited {broken[0]} has values that are not finite",
                "Infinities or NaN in an input, or an overflow of the model's dtype: check the inputs, or use float32.",
            )
