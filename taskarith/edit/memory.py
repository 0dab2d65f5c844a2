"""Edit a model that is loaded in memory: the bits that a written edit would have, and back again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.operands import open_operands, parse_operands
from taskarith.edit.plan import EditPlan, TensorPlan, plan_edit
from taskarith.edit.run import edited_pieces
from taskarith.errors import MismatchError

__all__ = ["InMemoryEdit"]

_CPU = torch.device("cpu")


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
        self._stack = ExitStack()
        try:
            self._operands = open_operands(parse_operands(add, negate), self._checkpoint, self._stack)
            self._reader = self._stack.enter_context(TensorReader())
        except BaseException:
            self._stack.close()
            raise
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
        self._stack.close()

    def _names_match(self) -> bool:
        state = self._model.state_dict()
        touched = [name for operand in self._operands for name in (*operand.vector.shapes, *operand.tied)]
        return all(name in state and state[name].shape == self._checkpoint.tensors[name].shape for name in touched)

    @torch.no_grad()
    def _load(self, plan: EditPlan) -> None:
        state = self._model.state_dict()
        touched = {name for operand in self._operands for name in (*operand.vector.shapes, *operand.tied)}
        if self._is_direct:
            for tensor in plan.tensors:
                if tensor.source.name in touched:
                    state[tensor.source.name].copy_(self._whole(plan, tensor))
            return
        # the files use other names or other shapes than the modules: let transformers convert them as it loads
        edited = {tensor.source.name: self._whole(plan, tensor) for tensor in plan.tensors}
        converted = type(self._model).from_pretrained(
            None, config=self._model.config, state_dict=edited, dtype=self._model.dtype
        )
        for name, values in converted.state_dict().items():
            state[name].copy_(values)

    def _whole(self, plan: EditPlan, tensor: TensorPlan) -> torch.Tensor:
        source = tensor.source
        if not source.is_float:
            with safe_open(source.path, "pt") as file:
                return file.get_tensor(source.name)
        values = torch.empty(source.elements, dtype=self._model.dtype)
        for start, piece in edited_pieces(plan, tensor, self._reader, _CPU, self._model.dtype):
            values[start : start + piece.numel()] = piece
        if tensor.terms and not values.isfinite().all():
            raise MismatchError(
                f"the edited {source.name} has values that are not finite",
                "Infinities or NaN in an input, or an overflow of the model's dtype: check the inputs, or use float32.",
            )
        return values.view(source.shape)
