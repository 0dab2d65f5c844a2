"""Batches shrink where memory is short, and are shared by processes."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import tiny
import torch

from taskarith.checkpoints.team import Team
from taskarith.errors import DataError, TaskarithError
from taskarith.evaluation import batches
from taskarith.evaluation.batches import batch_start, in_batches


def test_batches_shrink_when_memory_is_short_and_keep_the_order():
    sizes = []

    def run(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [index * 10 for index in batch]

    assert in_batches([3, 9, 1, 9, 5, 7], run, 6, shrink=True) == [0, 10, 20, 30, 40, 50]
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]


def together(size, call):
    """What each of several processes returns or raises, as threads that meet in ``gather``."""
    told, meet, results = [None] * size, threading.Barrier(size, timeout=20), [None] * size

    def work(rank):
        def gather(mine):
            told[rank] = mine
            meet.wait()
            all_of_them = list(told)
            meet.wait()
            return all_of_them

        try:
            results[rank] = call(Team(rank, size, gather=gather))
        except TaskarithError as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return results


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_processes_share_batches_that_do_not_depend_on_their_number(size):
    batches = []

    def run(batch):
        batches.append(tuple(batch))
        return [index * 10 for index in batch]

    lengths = [3, 9, 1, 9, 5, 7, 2]
    found = together(size, lambda team: in_batches(lengths, run, 2, shrink=True, team=team))
    assert found == [[0, 10, 20, 30, 40, 50, 60]] * size
    assert sorted(batches) == [(0, 6), (1, 3), (2,), (5, 4)]


def test_the_failure_of_one_process_is_that_of_all():
    def run(batch):
        if 0 in batch:
            raise DataError("sample 0 is broken", "Mend it.")
        return batch

    found = together(3, lambda team: in_batches([3, 2, 1], run, 1, shrink=True, team=team))
    assert [error.message for error in found] == ["sample 0 is broken"] * 3


def test_out_of_memory_is_said_where_the_batch_is_given_or_one():
    def run(batch):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(TaskarithError, match="out of memory with a batch of 2") as caught:
        in_batches([1, 2], run, 2, shrink=False)
    assert "--batch-size auto" in caught.value.hint
    with pytest.raises(TaskarithError, match="out of memory with a batch of 1"):
        in_batches([1, 2], run, 2, shrink=True)


def test_a_batch_starts_with_what_half_of_the_free_memory_holds(monkeypatch):
    config = tiny.configuration("llama")
    weights = [SimpleNamespace(device=torch.device("cuda", index)) for index in (0, 1, 0)]
    model = SimpleNamespace(
        device=torch.device("cuda"), dtype=torch.bfloat16, config=config, parameters=lambda: weights
    )
    free = 2 * 2 * 32 * (16 + 2 * 2) * 100 * 7  # twice the bytes of seven sequences of 100 tokens, 2 layers of 32 wide
    monkeypatch.setattr(batches, "available_memory", lambda device: free * (2 - (device.index or 0)))
    assert batch_start(model, 100, cached=True) == 7
    assert batch_start(model, 10**6, cached=True) == 1
    weights[:] = [SimpleNamespace(device=torch.device("cpu"))]
    model.device, model.dtype = torch.device("cpu"), torch.float32
    assert batch_start(model, 100, cached=True) == 7
    model.device, model.dtype = torch.device("cuda"), torch.bfloat16
    monkeypatch.setattr(batches, "available_memory", lambda _device: 40 * 2**30)
    assert batch_start(model, 100, cached=True) == 256
    assert batch_start(model, 256, cached=False) == 64
    assert batch_start(SimpleNamespace(device=torch.device("cpu")), 256, cached=False) == 4
    model.device = torch.device("cpu")
    assert batch_start(model, 100, cached=True) == 64
    monkeypatch.setattr(batches, "available_memory", lambda _device: None)  # not known, as on MPS
    assert batch_start(model, 100, cached=True) == 64


def test_other_failures_pass():
    def run(batch):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        in_batches([1, 2], run, 2, shrink=True)
