"""Forward passes recorded as CUDA graphs: one call starts all kernels of a pass.

A GPU takes less time for a step of few tokens than Python takes to start its hundreds of kernels one after the other.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import chain

import torch
from transformers import PreTrainedModel

__all__ = ["Graphs", "can_record"]

_Forward = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]

_WATCHED = 4  # the pass of a shape, by number, before the one that is recorded; rare shapes do not pay
_TOLERANCE = 0.02  # of the spread of the logits, at most
_COMPARED = 2  # replays of a shape that are compared with the pass itself


def can_record(model: PreTrainedModel) -> bool:
    """Tell whether the passes of a model may be recorded: its weights lie as they are on one GPU.

    Hooks that move weights, and kernels of quantised weights, may do what a graph does not hold.

    :param model: In evaluation mode.
    """
    devices = {tensor.device for tensor in chain(model.parameters(), model.buffers())}
    is_on_one_gpu = len(devices) == 1 and next(iter(devices)).type == "cuda"
    has_hooks = any(hasattr(module, "_hf_hook") for module in model.modules())
    return is_on_one_gpu and not has_hooks and not getattr(model, "is_quantized", False)


class Graphs:
    """Runs passes of few shapes many times.

    A shape is recorded when it was met a few times. A graph repeats kernels on the memory that they used, and nothing
    of what Python did between them; so no graph is made of a pass that waits for the GPU, and the first replays are
    compared with the pass itself. If either fails, passes run as they are from then on.

    :param device: A GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._met: Counter[tuple[int, ...]] = Counter()
        self._graphs: dict[tuple[int, ...], _Graph] = {}
        self._fails = False

    def run(self, forward: _Forward, ids: torch.Tensor, columns: torch.Tensor, until: int) -> torch.Tensor:
        """Return the logits of a pass, which the next one may overwrite.

        :param forward: The same each time. Returns logits from tokens, their columns and how many columns are read. It
            can be repeated: it writes the same again.
        :param ids: Tokens of shape (rows, width), on any device.
        :param columns: Where each is written, of the same shape.
        :param until: How many columns are read.
        """
        ids, columns, key = ids.to(self._device), columns.to(self._device), (*ids.shape, until)
        self._met[key] += 1
        plain = partial(forward, ids, columns, until)
        if self._fails or self._met[key] < _WATCHED:
            return plain()
        try:
            if self._met[key] == _WATCHED:
                return self._watch(plain)
            if key not in self._graphs:
                self._graphs[key] = self._record(forward, ids, columns, until)
        except RuntimeError:  # as torch raises for what a graph cannot hold
            self._fails = True
            return plain()
        logits = self._graphs[key].replay(ids, columns)
        if self._met[key] > _WATCHED + _COMPARED:
            return logits
        right = plain()
        self._fails = not _are_close(logits, right)
        return right

    def _watch(self, plain: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Run a pass on the stream that records; raise ``RuntimeError`` if it waits for the GPU."""
        before, current = torch.cuda.get_sync_debug_mode(), torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with warnings.catch_warnings(), torch.cuda.stream(self._stream):
            warnings.simplefilter("ignore")  # that the mode is experimental
            torch.cuda.set_sync_debug_mode("error")
            try:
                return plain()
            finally:
                torch.cuda.set_sync_debug_mode(before)
                current.wait_stream(self._stream)

    def _record(self, forward: _Forward, ids: torch.Tensor, columns: torch.Tensor, until: int) -> _Graph:
        """Record a pass, which does not run it."""
        graph, ids, columns = torch.cuda.CUDAGraph(), ids.clone(), columns.clone()
        with (
            torch.cuda.stream(self._stream),  # left even if the recording fails
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            logits = forward(ids, columns, until)
        return _Graph(graph, ids, columns, logits)


class _Graph:
    """A recorded pass, and the memory that it reads and writes."""

    def __init__(
        self, graph: torch.cuda.CUDAGraph, ids: torch.Tensor, columns: torch.Tensor, logits: torch.Tensor
    ) -> None:
        self._graph, self._ids, self._columns, self._logits = graph, ids, columns, logits

    def replay(self, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Return the logits of these tokens in these columns, which the next replay overwrites."""
        self._ids.copy_(ids)
        self._columns.copy_(columns)
        self._graph.replay()
        return self._logits


def _are_close(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Compare logits up to rounding; a token in the wrong column, or of the pass before, is far above it."""
    least, most = second.aminmax()
    tolerance = min(torch.finfo(first.dtype).eps ** 0.5, _TOLERANCE)
    return bool((first - second).abs_().max() <= tolerance * (most - least))
