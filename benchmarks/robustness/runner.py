"""Call a reader with many damaged inputs in this process, and count what comes out, how slowly and how large."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import resource
import shutil
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any
from unittest import mock

import typer

from taskarith.checkpoints.cache import cache_folders
from taskarith.errors import TaskarithError

__all__ = ["LONGEST_MESSAGE", "MEGABYTES", "SECONDS", "Reader", "Tally", "fuzz", "own_cache"]

SECONDS, MEGABYTES, LONGEST_MESSAGE = 1.0, 200.0, 3000
"""What a case may take, and how long a message may be."""

_HANGS = 10.0
_TRIES = 3
"""How often a slow case is tried: the least time counts, as another program may have had the core."""
_ROOM = 2 << 30
"""Bytes of addresses beside what the process has: whoever asks for more gets a MemoryError instead of the machine."""
_REFUSALS = (TaskarithError, typer.BadParameter)


@dataclass(frozen=True)
class Reader:
    """One way into taskarith.

    :param name: As ``--only`` knows it.
    :param prepare: Makes sound files in a folder.
    :param damage: Damages one of them, in a folder of their copies, which is put back after each case.
    :param call: Reads the folder, as a whole command does.
    :param door: Reads the damaged file alone, as ``call`` does first; None if that is all that ``call`` does.
    :param share: One of so many cases goes through ``call``, the others through the door.
    :param seconds: What a case may take.
    """

    name: str
    prepare: Callable[[Path], None]
    damage: Callable[[Random, Path], None]
    call: Callable[[Path], Any]
    door: Callable[[Path], Any] | None = None
    share: int = 1
    seconds: float = SECONDS

    def reads(self, case: int) -> Callable[[Path], Any]:
        """Return what reads the folder in a case."""
        return self.call if self.door is None or case % self.share == 0 else self.door


@dataclass
class Tally:
    """What came out.

    :param cases: Number of inputs.
    :param whole: Those that went through a whole command.
    :param read: Those that gave a result.
    :param refused: Those that gave one of our own errors.
    :param odd: Anything else, by what it was and where, with the first case that showed it.
    """

    name: str
    seed: int
    cases: int = 0
    whole: int = 0
    read: int = 0
    refused: int = 0
    odd: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0
    largest: float = 0.0
    seconds: float = 0.0

    def add(self, case: int, one: Outcome) -> None:
        """Count a case."""
        self.cases += 1
        self.read += one.result == "read"
        self.refused += one.result == "refused"
        for what in one.odd:
            self.odd[what] += 1
            self.first.setdefault(what, case)
        self.slowest, self.largest = max(self.slowest, one.seconds), max(self.largest, one.megabytes)


@dataclass(frozen=True)
class Outcome:
    """What came out of one case.

    :param result: ``read`` or ``refused``; empty for anything else.
    :param odd: What is odd about it.
    """

    result: str
    odd: tuple[str, ...]
    seconds: float
    megabytes: float


class _HangError(BaseException):
    """A case that took too long; no reader can catch it as an error of the file."""


def fuzz(reader: Reader, cases: int, seed: int, folder: Path, *, start: int = 0) -> Tally:
    """Run some cases of one reader; each depends on the seed and its own number alone.

    :param reader: What is called.
    :param cases: How many.
    :param seed: Of all.
    :param folder: An empty scratch folder.
    :param start: Number of the first case: one case is repeated with its number and ``cases=1``.
    """
    sound, place, tally = folder / "sound", folder / "case", Tally(reader.name, seed)
    sound.mkdir(parents=True)
    own_cache(folder / "cache")
    with warnings.catch_warnings(), _alarm(), _in_memory(), contextlib.ExitStack() as limits:
        warnings.simplefilter("error")
        with contextlib.redirect_stderr(io.StringIO()):
            reader.prepare(sound)
            case_folder = _Place(sound, place)
            for read in (reader.call, reader.door or reader.call):
                read(place)  # whatever is imported or compiled once, is now
                case_folder.restore()
        gc.freeze()  # else every collection goes through all of the libraries
        limits.callback(gc.unfreeze)
        limits.enter_context(_limited())
        memory = limits.enter_context(_Peak())
        began = time.perf_counter()
        for case in range(start, start + cases):
            for _ in range(_TRIES):
                reader.damage(Random(f"{seed}:{reader.name}:{case}"), place)  # noqa: S311 no secret
                outcome = _run(reader, case, place, memory)
                case_folder.restore()
                if outcome.seconds <= reader.seconds:
                    break
            tally.add(case, outcome)
            tally.whole += reader.reads(case) is reader.call
        tally.seconds = time.perf_counter() - began
    return tally


def own_cache(folder: Path) -> None:
    """Keep what strange configurations leave in the cache apart; compiled code is that of the user's cache."""
    folder.mkdir()
    kernels = cache_folders("kernels")[0]
    if kernels.is_dir():
        shutil.copytree(kernels, folder / "kernels")
    os.environ["TASKARITH_CACHE"] = str(folder)


def _run(reader: Reader, case: int, place: Path, memory: _Peak) -> Outcome:
    result, faults, read = "", (), reader.reads(case)
    memory.reset()
    began = time.process_time()  # others may use the machine; what waits for ever is noticed by the alarm
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        signal.setitimer(signal.ITIMER_REAL, _HANGS)
        try:
            read(place)
            result = "read"
        except _REFUSALS as error:
            result, faults = "refused", tuple(_odd_words(error))
        except _HangError:
            faults = (f"hung for {_HANGS:g} s",)
        except (Exception, SystemExit) as error:
            faults = (_where(error),)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    seconds, megabytes = time.process_time() - began, memory.megabytes()
    slow = (f"more than {reader.seconds:g} s",) if seconds > reader.seconds else ()
    large = (f"more than {MEGABYTES:g} MB",) if megabytes > MEGABYTES else ()
    return Outcome(result, (*faults, *slow, *large), seconds, megabytes)


def _odd_words(error: BaseException) -> Iterator[str]:
    """See whether an error can be printed: as long as one can read, in characters that a terminal takes."""
    text = str(error)
    if len(text) > LONGEST_MESSAGE:
        yield "a message of more than a page"
    try:
        text.encode()
    except UnicodeEncodeError:
        yield "a message that is not Unicode"


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/taskarith/" in frame.filename]
    last = frames[-1] if frames else None
    place = f" at {last.filename.rpartition('/taskarith/')[2]}:{last.name}" if last else ""
    return f"{type(error).__name__}{place}"


class _Place:
    """The folder of a case, put back after each: what changed is written again from memory, what is new goes."""

    def __init__(self, sound: Path, place: Path) -> None:
        found = sorted(sound.rglob("*"))
        self._path = place
        self._folders = [str(path.relative_to(sound)) for path in found if path.is_dir()]
        self._files = {str(path.relative_to(sound)): path.read_bytes() for path in found if path.is_file()}
        self._states: dict[str, tuple[int, ...]] = {}
        place.mkdir()
        self.restore()

    def restore(self) -> None:
        """Make the folder sound again."""
        found = dict(_states(self._path))
        for name, state in found.items():
            if name not in (self._folders if state is None else self._files):
                _remove(self._path / name)
        for name in self._folders:
            if name not in found or found[name] is not None:
                (self._path / name).mkdir()
        for name, data in self._files.items():
            if name not in found or found[name] != self._states.get(name):
                path = self._path / name
                _remove(path)
                path.write_bytes(data)
                self._states[name] = _state(path.lstat())


def _states(folder: Path | os.DirEntry[str], above: str = "") -> Iterator[tuple[str, tuple[int, ...] | None]]:
    """Yield all that lies in a folder, by its path in it: None for a folder, else what changes with a file."""
    with os.scandir(folder) as entries:
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            yield above + entry.name, None if is_folder else _state(entry.stat(follow_symlinks=False))
            if is_folder:
                yield from _states(entry, f"{above}{entry.name}/")


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in {errno.EISDIR, errno.EPERM}:
            raise
        shutil.rmtree(path)


class _Peak:
    """The most memory that this process has held since ``reset``, beyond what it held then."""

    def __enter__(self) -> _Peak:
        self._file = os.open("/proc/self/clear_refs", os.O_WRONLY)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def reset(self) -> None:
        """Let the kernel count anew."""
        os.pwrite(self._file, b"5", 0)
        self._before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def megabytes(self) -> float:
        """Return the growth; Linux counts in KiB."""
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._before) * 1024 / 1e6


class _AtOnce(Executor):
    """A pool without threads: to begin and to wait for them takes longer than to read a small file."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def submit(self, fn: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Make a call, and return what came of it."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*arguments, **named))
        except BaseException as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def _in_memory() -> Generator[None]:
    """Leave out what takes time and reads nothing: threads, and the wait for a disk where there is none."""
    with contextlib.ExitStack() as stack:
        for module in ("arithmetic.parallel", "inspection.open_tensors"):
            stack.enter_context(mock.patch(f"taskarith.{module}.ThreadPoolExecutor", _AtOnce))
        for name in ("fsync", "fdatasync"):
            stack.enter_context(mock.patch.object(os, name))
        yield


@contextlib.contextmanager
def _limited() -> Generator[None]:
    """Bound the addresses of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    bound = pages * resource.getpagesize() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def _alarm() -> Generator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise _HangError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
