"""CUDA graphs without a GPU: a stand-in that repeats operators on the memory that they used.

Like CUDA it repeats nothing of what Python did, and refuses what waits for the device. What it cannot show is whether
CUDA has more reasons to refuse, and how fast it is.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from taskarith.evaluation.decoding import Job, _Batch

__all__ = ["Counts", "cannot_be_recorded", "recorded"]

_aten = torch.ops.aten
_COPIES = {_aten._to_copy.default, _aten.copy_.default, _aten.to.device, _aten.to.dtype_layout}
_WAITS = {"item", "_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2"}
_INDEXING = {"index", "index_put", "index_put_"}


@dataclass
class Counts:
    """What was done to passes."""

    watched: int = 0
    recorded: int = 0
    replayed: int = 0


@contextmanager
def recorded() -> Generator[Counts]:
    """Let ``decode`` record its passes on the CPU."""
    counts = Counts()
    stands_in = {
        "Stream": lambda _: mock.Mock(),
        "current_stream": lambda _: mock.Mock(),
        "stream": lambda _: nullcontext(),
        "graph_pool_handle": lambda: "a pool",
        "CUDAGraph": lambda: _Graph(counts),
        "graph": lambda graph, **_: graph,
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": _Watch(counts),
    }
    with ExitStack() as stack:
        for name, stand_in in stands_in.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        stack.enter_context(mock.patch("taskarith.evaluation.decoding.can_record", return_value=True))
        yield counts


class _NoWait(TorchDispatchMode):
    """Refuses what waits for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITS or (name in _INDEXING and _asks_for_a_count(args)):
            raise RuntimeError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def _asks_for_a_count(args: Any) -> bool:
    """Tell whether elements are selected by a mask; torch fills them with one value without counting them."""
    has_mask = any(tensor.dtype == torch.bool for tensor in _tensors(args[1]))
    return has_mask and not (len(args) > 2 and args[2].numel() == 1)


class _Watch:
    """Sets the mode in which operators that wait are errors."""

    def __init__(self, counts: Counts) -> None:
        self._counts, self._mode = counts, _NoWait()

    def __call__(self, mode: str | int) -> None:
        if mode == "error":
            self._counts.watched += 1
            self._mode.__enter__()
        else:
            self._mode.__exit__(None, None, None)


class _Graph(_NoWait):
    """Operators with their arguments and results, whose memory stays theirs."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts, self._steps = counts, list[tuple[Any, Any, Any, Any]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = super().__torch_dispatch__(func, types, args, kwargs)
        self._steps.append((func, args, kwargs or {}, made))
        return made

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        super().__exit__(*error)
        self._counts.recorded += 1
        for _, args, kwargs, made in self._steps:  # CUDA runs nothing while it records
            read = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
            for tensor in _tensors(made):
                if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in read:
                    tensor.fill_(torch.nan)

    def replay(self) -> None:
        """Run the operators again."""
        self._counts.replayed += 1
        for func, args, kwargs, made in self._steps:
            for old, new in zip(_tensors(made), _tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


class _OneDevice(TorchDispatchMode):
    """Refuses operators on tensors of two devices, scalars excepted, which are arguments of kernels."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        read = {tensor.device for tensor in _tensors((args, kwargs)) if tensor.dim() or func in _COPIES}
        if len(read | {tensor.device for tensor in _tensors(made)}) > 1:
            raise RuntimeError(f"{func} copies between devices")
        return made


def cannot_be_recorded(model: PreTrainedModel) -> str:
    """Say why a step of a model on a device, without values, waits for it or copies to it; nothing if it does not."""
    with torch.inference_mode(), torch.device("meta"):
        empty = type(model)(model.config).eval().to(torch.bfloat16)
        batch = _Batch(empty, Job([[2]], [()], 8, lambda _, __: False, lambda _: None), 4)
        ids, columns = (torch.zeros(4, 2, dtype=torch.long) for _ in range(2))
    with torch.inference_mode():
        try:
            batch._run(ids, columns, 8, slots=range(4), keep=2)  # makes the cache
            with _OneDevice():
                batch._run(ids, columns, 8, slots=range(4), keep=2)
        except (RuntimeError, NotImplementedError) as error:
            return str(error).splitlines()[0]
    return ""
