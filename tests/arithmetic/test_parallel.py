"""Workers over many tensors: their number and calculators, the device, and what becomes of a failure."""

from __future__ import annotations

import pytest
import torch

from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.arithmetic.parallel import (
    Workers,
    check_device,
    chunks,
    device_of,
    new_calculator,
    usable_cores,
    work_through,
)
from taskarith.arithmetic.torch import TorchCalculator
from taskarith.errors import UsageError
from taskarith.progress import SILENT


def test_new_calculator(monkeypatch):
    assert isinstance(new_calculator(), CpuCalculator)
    assert isinstance(new_calculator(Workers("torch")), TorchCalculator)
    monkeypatch.setitem(__import__("sys").modules, "taskarith.arithmetic.cpu", None)  # as if numba were not there
    assert isinstance(new_calculator(), TorchCalculator)


def test_usable_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert usable_cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert usable_cores() >= 1


def test_check_device(monkeypatch):
    assert check_device("cpu") == check_device("cpu", decomposes=True) == check_device("auto") == "cpu"
    for has_gpu, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        assert check_device("auto", decomposes=True) == expected
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of(rank, "cuda") for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [device_of(1, name) for name in ("cpu", "cuda:0")] == ["cpu", "cuda:0"]
    for name in ("mps", "cuda:99", "meta", "nonsense"):
        with pytest.raises(UsageError):
            check_device(name)


def test_chunks_cover_every_element_once():
    assert list(chunks(10, 4)) == [(0, 4), (4, 8), (8, 10)]
    assert list(chunks(8, 4)) == [(0, 4), (4, 8)]
    assert list(chunks(0, 4)) == []


def test_a_failure_ends_the_work_and_is_the_one_that_is_raised():
    begun = []

    def do(task, calculator, stop):
        begun.append(task)
        if task == 1:
            raise OSError("disk full")
        assert stop.wait(60)  # every other task is told to give up
        return 1

    with pytest.raises(OSError, match="disk full"):
        work_through(range(100), do, SILENT, "working", 100, Workers(chunk=10, count=2))
    assert {0, 1} <= set(begun) <= {0, 1, 2}  # the thread that failed may take one more before it is told


@pytest.mark.parametrize("workers", [1, 3])
def test_all_work_is_done_with_a_calculator_for_each_worker(workers):
    calculators, shares = set(), []

    class Listener:
        def progress(self, what, done, total):
            shares.append((what, done, total))

        def note(self, message):
            raise AssertionError(message)

    def do(task, calculator, stop):
        calculators.add(id(calculator))
        return task

    work_through([5, 3, 2], do, Listener(), "working", 10, Workers(chunk=10, count=workers))
    assert len(calculators) <= workers
    assert shares[0] == ("working", 0, 10)
    assert shares[-1] == ("working", 10, 10)


def test_torch_has_one_thread_while_it_works_and_as_many_as_before_afterwards():
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        workers = Workers(chunk=4, uses_torch=True)
        work_through([1], lambda *_: seen.append(torch.get_num_threads()) or 1, SILENT, "", 1, workers)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)
