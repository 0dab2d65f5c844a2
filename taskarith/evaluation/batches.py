"""Batches of samples of like length, as large as the device holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby
from typing import Generic, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import PreTrainedModel

from taskarith.checkpoints.team import ALONE, Team
from taskarith.checkpoints.units import Batches, Units
from taskarith.errors import TaskarithError

__all__ = ["Batching", "Grouping", "batch_start", "in_batches", "pad"]

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")

_CPU_TOKENS = 1024  # a forward pass of more is no faster there, and leaves the caches
_CPU_SEQUENCES = 64
_GPU_TOKENS = 16_384
_GPU_SEQUENCES = 256
_MEMORY_SHARE = 0.5


class Grouping(IntEnum):
    """Which rows may share a batch; what is true of one is true of all that follow."""

    PADDED = 0
    """Any: the shorter ones are padded, and the padding is masked."""

    EQUAL = 1
    """Those of one length."""

    ALONE = 2
    """None."""


def _count_nothing(_tokens: int) -> None:
    """Take a number of tokens that nobody asks for."""


@dataclass(frozen=True)
class Batching:
    """How a model goes through many samples or prompts.

    :param size: Of a batch.
    :param shrink: Halve it where memory is short.
    :param on_tokens: Receives the number of tokens of each finished batch or step.
    :param team: The processes that make this call and share the batches.
    :param units: Where finished batches are kept; None keeps none.
    """

    size: int
    shrink: bool = False
    on_tokens: Callable[[int], None] = _count_nothing
    team: Team = ALONE
    units: Units | None = None


def batch_start(model: PreTrainedModel, longest: int, *, cached: bool) -> int:
    """Return a number of sequences to begin with; ``in_batches`` halves it where memory is short.

    On a CPU enough to keep it busy; on a GPU what half of its free memory holds by a rough count of the key-value
    cache and of the activations of one layer.

    :param longest: Tokens of the longest sequence, continuation included.
    :param cached: Whether keys and values are kept, one token a step being computed.
    """
    if model.device.type != "cuda":
        return _CPU_SEQUENCES if cached else max(1, _CPU_TOKENS // longest)
    config = model.config.get_text_config()
    hidden, layers = getattr(config, "hidden_size", 4096), getattr(config, "num_hidden_layers", 32)
    per_token = model.dtype.itemsize * hidden * (16 + 2 * layers * cached)
    fitting = int(torch.cuda.mem_get_info(model.device)[0] * _MEMORY_SHARE) // (per_token * longest)
    busy = _GPU_SEQUENCES if cached else _GPU_TOKENS // longest
    return max(1, min(fitting, busy))


def in_batches(
    lengths: Sequence[int],
    run: Callable[[list[int]], Sequence[_Result]],
    size: int,
    *,
    shrink: bool,
    grouping: Grouping = Grouping.PADDED,
    team: Team = ALONE,
    kept: Batches | None = None,
) -> list[_Result]:
    """Run over items in batches of like length, longest first; return the results in the order of the items.

    Of several processes each runs some of the batches, and all get all results. The batches do not depend on how many
    processes there are, so neither do the numbers; only what runs out of memory is split further.

    :param lengths: Tokens of each item.
    :param run: Takes the positions of a batch's items and returns one result for each; what several processes are to
        tell each other must be pickled.
    :param size: Items of a batch.
    :param shrink: Halve the size and go on where the device runs out of memory.
    :param grouping: Which items may share a batch; where processes disagree, the safest.
    :param team: The processes that make this call.
    :param kept: Where finished batches are kept; those that are there are not run. The first process reads and writes.
    :raises TaskarithError: ``run`` raised it in one of the processes, or ran out of memory and may not, or can no
        longer, shrink.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    agreed = max(team.gather(grouping))
    together = [order] if agreed == Grouping.PADDED else [list(same) for _, same in groupby(order, lengths.__getitem__)]
    batches = [batch for each in together for batch in _cut(each, 1 if agreed == Grouping.ALONE else size)]
    work = _Work(run, shrink, team.by_first(kept.finished) if kept else {})
    results: dict[int, _Result] = {}
    for wave in _cut(batches, team.size):
        for told in _share(work, wave, team):
            for batch, found in told.items():
                results.update(zip(batch, found, strict=True))
                if kept is not None and team.is_first and batch not in work.finished:
                    kept.add(list(batch), found)
    return [results[index] for index in range(len(order))]


def _share(work: _Work[_Result], wave: list[list[int]], team: Team) -> list[dict[tuple[int, ...], list[_Result]]]:
    """Let each process run one batch, and return what all of them found."""
    if all(tuple(batch) in work.finished for batch in wave):
        return [{tuple(batch): work.finished[tuple(batch)] for batch in wave}]
    mine, failure = {}, None
    try:
        mine = {piece: found for batch in team.share(wave) for piece, found in work.through(batch)}
    except TaskarithError as error:
        failure = error  # the others learn of it instead of waiting
    told = team.gather((mine, failure))
    for failed in (error for _, error in told if error is not None):
        raise failed
    return [found for found, _ in told]


@dataclass
class _Work(Generic[_Result]):
    """What one process does with its batches.

    :param finished: Results of batches that are not to be run.
    :param most: Items that the device has held, once it has run out of memory.
    """

    run: Callable[[list[int]], Sequence[_Result]]
    shrink: bool
    finished: dict[tuple[int, ...], list[_Result]]
    most: int | None = None

    def through(self, batch: list[int]) -> Iterator[tuple[tuple[int, ...], list[_Result]]]:
        """Run a batch, in pieces where memory is short, and give each piece with its results."""
        waiting = _cut(batch, self.most or len(batch))
        while waiting:
            piece = waiting[0]
            found = self.finished.get(tuple(piece)) or self._run(piece)
            if found is None:
                clear_device_cache(garbage_collection=True)  # not while the error was handled: it held the tensors
                self.most = max(1, len(piece) // 2)
                waiting = [part for each in waiting for part in _cut(each, self.most)]
            else:
                yield tuple(piece), found
                del waiting[0]

    def _run(self, piece: list[int]) -> list[_Result] | None:
        """Return the results of a piece, or None if there was not enough memory for it."""
        try:
            return list(self.run(piece))
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                raise
            failure = _out_of_memory(len(piece), str(error))
            if not self.shrink or len(piece) == 1:
                raise failure from error
            return None


def _cut(items: list[_Item], size: int) -> list[list[_Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def pad(rows: Sequence[Sequence[int]], device: torch.device, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask, int64 of shape (rows, longest); padding is token 0, which is masked."""
    longest = max(len(row) for row in rows)
    ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), None) if left else slice(len(row))
        ids[index, place] = torch.tensor(row)
        mask[index, place] = 1
    return ids.to(device), mask.to(device)


def _out_of_memory(size: int, reason: str) -> TaskarithError:
    return TaskarithError(
        f"out of memory with a batch of {size}: {reason.partition(chr(10))[0]}",
        "Use --batch-size auto or a smaller one, a smaller --block-size, --dtype bfloat16, or another --device."
        if size > 1
        else "Use a smaller --block-size, --dtype bfloat16, or another --device.",
    )
