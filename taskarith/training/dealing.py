"""Dealing the rows of an epoch to several processes, none of them twice.

accelerate gives each process as many full batches as the others. Where rows do not divide by them it begins the epoch
again to fill the last ones, so that the loss would differ from that of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import BatchSampler

from taskarith.training.examples import IGNORED

__all__ = ["Dealt", "collate_dealt", "deal", "idle_processes"]


class Dealt:
    """A data set that returns nothing for the places that rows do not fill.

    :param rows: The data set.
    """

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int | None) -> Any:
        return None if number is None else self._rows[number]


class _FullBatches:
    """Batches of numbers, all of the same size and as many for each process; places that rows do not fill are None.

    :param batches: Numbers of rows; the last batch may be smaller.
    :param processes: They are dealt to so many processes in turn.
    """

    def __init__(self, batches: BatchSampler, processes: int) -> None:
        self._batches, self._processes = batches, processes
        self.batch_size, self.drop_last = batches.batch_size, batches.drop_last

    @property
    def sampler(self) -> Any:
        """The order of the rows, for accelerate to draw anew in each epoch."""
        return self._batches.sampler

    def __len__(self) -> int:
        return -(-len(self._batches) // self._processes) * self._processes

    def __iter__(self) -> Iterator[list[int | None]]:
        for batch in self._batches:
            yield [*batch, *[None] * (self.batch_size - len(batch))]
        yield from [[None] * self.batch_size] * (len(self) - len(self._batches))


def deal(loader: Any, processes: int) -> Any:
    """Let accelerate's loader of a ``Dealt`` deal each row once, and return it.

    :param loader: Prepared by accelerate; its ``collate_fn`` is from ``collate_dealt``.
    :param processes: How many there are.
    """
    if processes > 1:
        shard = loader.batch_sampler
        shard.batch_sampler = _FullBatches(shard.batch_sampler, processes)
    return loader


def collate_dealt(collate: Callable[[Any], dict[str, Any]], rows: Sequence[Any]) -> Callable[[Any], dict[str, Any]]:
    """Return a collator of the rows that there are; a batch without any is one row of which nothing is learned.

    :param collate: Makes a batch with ``labels`` of rows.
    :param rows: The data set.
    """

    def collate_those(given: Sequence[Any]) -> dict[str, Any]:
        if there := [row for row in given if row is not None]:
            return collate(there)
        batch = collate([rows[0]])  # every process runs the model in every step
        batch["labels"].fill_(IGNORED)
        return batch

    return collate_those


def idle_processes(rows: int, size: int, processes: int) -> int:
    """Return how many processes never have a row.

    :param rows: Of an epoch.
    :param size: Of a process's batch.
    :param processes: How many there are.
    """
    return max(0, processes - -(-rows // size))
