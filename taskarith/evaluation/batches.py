"""Batches of samples of similar length, as large as memory allows."""

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
from taskarith.models.memory import available_memory

__all__ = ["Batching", "Grouping", "batch_start", "in_batches", "in_pools", "pad"]

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")

_CPU_TOKENS = 1024  # larger forward passes are no faster, and exceed the caches
_CPU_SEQUENCES = 64
_GPU_TOKENS = 16_384
_GPU_SEQUENCES = 256
_MEMORY_SHARE = 0.5


class Grouping(IntEnum):
    """Which rows may share a batch, from the least to the most restrictive."""

    PADDED = 0
    """Any rows: shorter ones are padded, and the padding is masked."""

    EQUAL = 1
    """Rows of the same length."""

    ALONE = 2
    """No rows: each is a batch of its own."""


def _count_nothing(_tokens: int) -> None:
    """Ignore a number of tokens."""


@dataclass(frozen=True)
class Batching:
    """How a model processes many samples or prompts.

    :param size: Batch size.
    :param shrink: Halve it when memory runs out.
    :param on_tokens: Receives the number of tokens of each finished batch or step.
    :param team: The processes that make this call and share the batches.
    :param units: Where to store finished batches; None for nowhere.
    """

    size: int
    shrink: bool = False
    on_tokens: Callable[[int], None] = _count_nothing
    team: Team = ALONE
    units: Units | None = None


def batch_start(model: PreTrainedModel, longest: int, *, cached: bool) -> int:
    """Return a batch size to start with; ``in_batches`` halves it when memory runs out.

    It is enough to keep a CPU busy, or a GPU, and fills at most half of the free memory (of several GPUs, of the
    fullest one), by a rough estimate of the key-value cache and the activations of one layer.

    :param longest: Tokens of the longest sequence, continuation included.
    :param cached: Whether tokens are generated one by one with a key-value cache.
    """
    is_gpu = model.device.type == "cuda"
    if not is_gpu and not cached:
        return max(1, _CPU_TOKENS // longest)
    config = model.config.get_text_config()
    hidden, layers = getattr(config, "hidden_size", 4096), getattr(config, "num_hidden_layers", 32)
    per_token = model.dtype.itemsize * hidden * (16 + 2 * layers * cached)
    rooms = [available_memory(device) for device in {weight.device for weight in model.parameters()}]
    fitting = [int(room * _MEMORY_SHARE) // (per_token * longest) for room in rooms if room is not None]
    busy = _CPU_SEQUENCES if not is_gpu else _GPU_SEQUENCES if cached else _GPU_TOKENS // longest
    return max(1, min([busy, *fitting]))


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
    """Run over items in batches of similar length, longest first; return the results in the order of the items.

    Several processes share the batches, and all get all results. Batches do not depend on the number of processes, so
    neither do the numbers; only batches that run out of memory are split further.

    :param lengths: Tokens of each item.
    :param run: Takes the positions of a batch's items and returns one result for each; with several processes, results
        must be picklable.
    :param size: Items of a batch.
    :param shrink: Halve the size and continue when the device runs out of memory.
    :param grouping: Which items may share a batch; if processes disagree, the most restrictive.
    :param team: The processes that make this call.
    :param kept: Finished batches, which are not run again; the first process reads and writes them.
    :raises TaskarithError: ``run`` raised it in a process, or ran out of memory and the batch cannot be split.
    """
    return in_pools(
        lengths, lambda items, _: run(items), size, 1, shrink=shrink, grouping=grouping, team=team, kept=kept
    )


def in_pools(
    lengths: Sequence[int],
    run: Callable[[list[int], int], Sequence[_Result]],
    size: int,
    pool: int,
    *,
    shrink: bool,
    grouping: Grouping = Grouping.PADDED,
    team: Team = ALONE,
    kept: Batches | None = None,
) -> list[_Result]:
    """Run over items as ``in_batches`` does, in pools of several batches, of which items that end make room for others.

    :param run: Takes the positions of a pool's items and how many to run at a time.
    :param size: Items at a time.
    :param pool: Such batches of a pool. Other parameters are those of ``in_batches``.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    agreed = max(team.gather(grouping))
    together = [order] if agreed == Grouping.PADDED else [list(same) for _, same in groupby(order, lengths.__getitem__)]
    at_once = 1 if agreed == Grouping.ALONE else size
    batches = [batch for each in together for batch in _cut(each, at_once * pool)]
    work = _Work(run, shrink, team.by_first(kept.finished) if kept else {}, at_once, pool)
    results: dict[int, _Result] = {}
    for wave in _cut(batches, team.size):
        for shared in _share(work, wave, team):
            for batch, values in shared.items():
                results.update(zip(batch, values, strict=True))
                if kept is not None and team.is_first and batch not in work.finished:
                    kept.add(list(batch), values)
    return [results[index] for index in range(len(order))]


def _share(work: _Work[_Result], wave: list[list[int]], team: Team) -> list[dict[tuple[int, ...], list[_Result]]]:
    """Run one batch in each process, and return the results of all of them."""
    if all(tuple(batch) in work.finished for batch in wave):
        return [{tuple(batch): work.finished[tuple(batch)] for batch in wave}]
    mine, failure = {}, None
    try:
        mine = {piece: values for batch in team.share(wave) for piece, values in work.through(batch)}
    except TaskarithError as error:
        failure = error  # passed on to the other processes, which would wait otherwise
    gathered = team.gather((mine, failure))
    for failed in (error for _, error in gathered if error is not None):
        raise failed
    return [results for results, _ in gathered]


@dataclass
class _Work(Generic[_Result]):
    """The batches of one process.

    :param finished: Results of batches that need not run again.
    :param most: Items at a time; fewer once memory has run out.
    """

    run: Callable[[list[int], int], Sequence[_Result]]
    shrink: bool
    finished: dict[tuple[int, ...], list[_Result]]
    most: int
    pool: int

    def through(self, batch: list[int]) -> Iterator[tuple[tuple[int, ...], list[_Result]]]:
        """Run a batch, in pieces if memory runs out, and yield each piece with its results."""
        waiting = _cut(batch, self.most * self.pool)
        while waiting:
            piece = waiting[0]
            results = self.finished.get(tuple(piece)) or self._run(piece)
            if results is None:
                clear_device_cache(
                    garbage_collection=True
                )  # only after the error was handled, since it held the tensors
                self.most = max(1, min(self.most, len(piece)) // 2)
                waiting = [part for each in waiting for part in _cut(each, self.most * self.pool)]
            else:
                yield tuple(piece), results
                del waiting[0]

    def _run(self, piece: list[int]) -> list[_Result] | None:
        """Return the results of a piece, or None if memory ran out."""
        at_once = min(self.most, len(piece))
        try:
            return list(self.run(piece, at_once))
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                raise
            failure = _out_of_memory(at_once, str(error))
            if not self.shrink or at_once == 1:
                raise failure from error
            return None


def _cut(items: list[_Item], size: int) -> list[list[_Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def pad(rows: Sequence[Sequence[int]], device: torch.device, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask, int64 of shape (rows, longest); padding is token 0, masked."""
    longest = max(len(row) for row in rows)
    ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        columns = slice(longest - len(row), None) if left else slice(len(row))
        ids[index, columns] = torch.tensor(row)
        mask[index, columns] = 1
    return ids.to(device), mask.to(device)


def _out_of_memory(size: int, reason: str) -> TaskarithError:
    return TaskarithError(
        f"out of memory with a batch of {size}: {reason.partition(chr(10))[0]}",
        "Use --batch-size auto or a smaller one, a smaller --block-size, --dtype bfloat16, or another --device."
        if size > 1
        else "Use a smaller --block-size, --dtype bfloat16, or another --device.",
    )
