"""One worker a core over many tensors, each worker with a calculator of its own; stops promptly, loses no error."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol, TypeVar

from taskarith.arithmetic.calculator import Calculator
from taskarith.errors import UsageError
from taskarith.progress import SILENT, Listener

__all__ = [
    "CHUNK_ELEMENTS",
    "WORKERS",
    "Input",
    "Workers",
    "check_device",
    "chunks",
    "device_of",
    "filled_chunks",
    "matrices_at_once",
    "new_calculator",
    "usable_cores",
    "work_through",
]

_Task = TypeVar("_Task")


class Input(Protocol):
    """A tensor that is read, or decoded, from beginning to end."""

    def read_into(self, out: memoryview) -> None:
        """Read the next elements into all of ``out``."""


CHUNK_ELEMENTS = 1 << 19
"""Elements read, calculated and written at a time: they stay in a core's cache."""


@dataclass(frozen=True)
class Workers:
    """Threads that calculate, each with a calculator of its own.

    :param device: Where to calculate: ``cpu``, ``cuda[:N]``, or ``torch`` for torch on the CPU.
    :param chunk: The most elements of a chunk; it changes no bit.
    :param count: How many threads; by default one a usable core. It changes no bit.
    :param uses_torch: What is done calculates with torch, which is to stay in the calling thread.
    :param kernels: The groups of compiled kernels that are called, as in ``kernels.compile``.
    """

    device: str = "cpu"
    chunk: int = CHUNK_ELEMENTS
    count: int | None = None
    uses_torch: bool = False
    kernels: tuple[str, ...] = ("linear",)


WORKERS = Workers()

_ON_GPU = 4
"""Whole matrices that are decomposed on a GPU at a time, each with several copies in its memory."""


def chunks(elements: int, size: int = CHUNK_ELEMENTS) -> Iterator[tuple[int, int]]:
    """Return the ranges ``start, stop`` that cut a tensor of ``elements`` into pieces of at most ``size``."""
    for start in range(0, elements, size):
        yield start, min(start + size, elements)


def filled_chunks(
    calculator: Calculator, inputs: Sequence[Input], elements: int, size: int, stop: threading.Event
) -> Iterator[tuple[int, int]]:
    """Fill the calculator's inputs with one chunk after the other and return each range; end early on ``stop``."""
    for start, end in chunks(elements, size):
        if stop.is_set():
            return
        for index, tensor in enumerate(inputs):
            tensor.read_into(calculator.room(index, end - start))
        yield start, end


def check_device(text: str, *, decomposes: bool = False) -> str:
    """Return where to calculate; ``auto`` is the CPU, since the disk is the limit and the bits are the same.

    :param text: ``auto``, ``cpu`` or ``cuda[:N]``.
    :param decomposes: Whole matrices are decomposed: ``auto`` is the GPU, if there is one.
    :raises UsageError: The device is unknown, absent, or has no float64.
    """
    if text == "cpu" or (text == "auto" and not decomposes):
        return "cpu"
    import torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda"}:
        raise UsageError(
            f"cannot calculate on device '{text}'", "Choose auto, cpu or cuda[:N], which is a GPU; others lack float64."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no device '{text}' here", "Choose auto or cpu.")
    return text


def device_of(rank: int, device: str) -> str:
    """Return the device of one of several processes on a machine, which take the GPUs in turn.

    :param rank: Number of the process.
    :param device: As ``check_device`` returns it; a GPU with a number is for all of them.
    """
    if device != "cuda":
        return device
    import torch

    return f"cuda:{rank % torch.cuda.device_count()}"


def matrices_at_once(device: str) -> int | None:
    """Return how many threads decompose whole matrices; None for one a core.

    torch loads a GPU's linear algebra when it is first used, and fails if two threads do that at once: it is done here.
    """
    if not device.startswith("cuda"):
        return None
    import torch

    torch.linalg.eigh(torch.eye(2, device=device))
    return _ON_GPU


def usable_cores() -> int:
    """Return how many cores this process may use: those of its affinity, at most ``OMP_NUM_THREADS``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(limit))) if limit.isdigit() else cores


def new_calculator(workers: Workers = WORKERS, listener: Listener = SILENT) -> Calculator:
    """Return a calculator for a device: compiled kernels on the CPU, torch elsewhere and where there are none (yet).

    :param workers: Whose calculator: on ``cpu``, ``cuda[:N]``, or ``torch`` for torch on the CPU.
    :param listener: Receives a note when the kernels have to be compiled, or cannot be kept.
    """
    device, chunk = workers.device, workers.chunk
    if device == "cpu":
        try:
            from taskarith.arithmetic.cpu import CpuCalculator
            from taskarith.arithmetic.kernels.compile import load_kernels

            load_kernels(*workers.kernels, listener=listener, wait=False)
            return CpuCalculator(chunk, workers.kernels)
        except (ImportError, RuntimeError):  # not yet compiled, no numba, no LLVM here, or nowhere to keep their code
            device = "torch"
    from taskarith.arithmetic.torch import TorchCalculator

    return TorchCalculator(chunk, "cpu" if device == "torch" else device)


def work_through(
    tasks: Sequence[_Task],
    do: Callable[[_Task, Calculator, threading.Event], int],
    listener: Listener,
    what: str,
    total: int,
    workers: Workers = WORKERS,
) -> None:
    """Do all tasks on a few threads, in the order given.

    :param tasks: The largest first, so that no thread is left alone at the end.
    :param do: Does one task and returns its size; it looks at the event now and then and gives up when it is set.
    :param listener: Receives progress updates.
    :param what: What is being done, for the listener.
    :param total: Sum of the sizes of all tasks.
    :param workers: Who does them.
    """
    listener.progress(what, 0, total)
    count = max(1, min(workers.count or usable_cores(), len(tasks)))
    calculators: SimpleQueue[Calculator] = SimpleQueue()
    made = [new_calculator(workers, listener) for _ in range(count)]
    for calculator in made:
        calculators.put(calculator)
    stop, done = threading.Event(), 0

    def run(task: _Task) -> int:
        calculator = _compiled(calculators.get(), workers)
        try:
            return 0 if stop.is_set() else do(task, calculator, stop)
        finally:
            calculators.put(calculator)

    with ExitStack() as stack:
        if workers.uses_torch or not all(calculator.is_compiled for calculator in made):
            stack.enter_context(_one_torch_thread())
            pool = stack.enter_context(ThreadPoolExecutor(count, initializer=_use_one_torch_thread))
        else:
            pool = stack.enter_context(ThreadPoolExecutor(count))
        futures = [pool.submit(run, task) for task in tasks]
        try:
            for future in as_completed(futures):
                done += future.result()
                listener.progress(what, done, total)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _compiled(calculator: Calculator, workers: Workers) -> Calculator:
    """Return a calculator with compiled kernels in the place of one without, once they are there."""
    if workers.device != "cpu" or calculator.is_compiled:
        return calculator
    newer = new_calculator(workers)
    return newer if newer.is_compiled else calculator


@contextmanager
def _one_torch_thread() -> Generator[None, None, None]:
    """Let torch calculate in the calling threads: the chunks are small, and more threads would wait for each other.

    Singular values would also depend on the number of threads.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _use_one_torch_thread() -> None:
    """Tell OpenMP, which counts for each calling thread."""
    import torch

    torch.set_num_threads(1)
