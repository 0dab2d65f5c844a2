"""Call a reader with many damaged inputs in this process, and count what comes out, how slowly and how large."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import typer

from taskarith.checkpoints.cache import cache_folders
from taskarith.errors import TaskarithError

__all__ = ["LONGEST_MESSAGE", "MEGABYTES", "SECONDS", "Reader", "Tally", "fuzz", "own_cache"]

SECONDS, MEGABYTES, LONGEST_MESSAGE = 1.0, 200.0, 3000
"""What a case may take, and how long a message may be."""

_HANGS = 10.0
_ROOM = 2 << 30
"""Bytes of addresses beside what the process has: whoever asks for more gets a MemoryError instead of the machine."""
_REFUSALS = (TaskarithError, typer.BadParameter)


@dataclass(frozen=True)
class Reader:
    """One way into taskarith.

    :param name: As ``--only`` knows it.
    :param prepare: Makes sound files in a folder.
    :param damage: Damages one of them and returns its path relative to the folder; the folder itself is put back.
    :param call: Reads the folder.
    """

    name: str
    prepare: Callable[[Path], None]
    damage: Callable[[Random, Path], str]
    call: Callable[[Path], Any]


@dataclass
class Tally:
    """What came out.

    :param cases: Number of inputs.
    :param read: Those that gave a result.
    :param refused: Those that gave one of our own errors.
    :param odd: Anything else, by what it was and where, with the first case that showed it.
    """

    name: str
    seed: int
    cases: int = 0
    read: int = 0
    refused: int = 0
    odd: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0
    largest: float = 0.0
    seconds: float = 0.0

    def note(self, what: str, case: int) -> None:
        """Count something odd."""
        self.odd[what] += 1
        self.first.setdefault(what, case)


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
    place.mkdir()
    own_cache(folder / "cache")
    with warnings.catch_warnings(), _alarm(), contextlib.ExitStack() as limits:
        warnings.simplefilter("error")
        with contextlib.redirect_stderr(io.StringIO()):
            reader.prepare(sound)
            shutil.copytree(sound, place, dirs_exist_ok=True, symlinks=True)
            reader.call(place)  # whatever is imported or compiled once, is now
        limits.enter_context(_limited())
        began = time.perf_counter()
        for case in range(start, start + cases):
            changed = reader.damage(Random(f"{seed}:{reader.name}:{case}"), place)  # noqa: S311 no secret
            _run(reader, place, case, tally)
            _restore(sound, place, changed)
        tally.seconds = time.perf_counter() - began
    return tally


def own_cache(folder: Path) -> None:
    """Keep what strange configurations leave in the cache apart; compiled code is that of the user's cache."""
    folder.mkdir()
    kernels = cache_folders("kernels")[0]
    if kernels.is_dir():
        shutil.copytree(kernels, folder / "kernels")
    os.environ["TASKARITH_CACHE"] = str(folder)


def _run(reader: Reader, place: Path, case: int, tally: Tally) -> None:
    before, began = _reset_peak(), time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        signal.setitimer(signal.ITIMER_REAL, _HANGS)
        try:
            reader.call(place)
            tally.read += 1
        except _REFUSALS as error:
            tally.refused += 1
            _check_words(error, case, tally)
        except _HangError:
            tally.note(f"hung for {_HANGS:g} s", case)
        except (Exception, SystemExit) as error:
            tally.note(_where(error), case)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    seconds, megabytes = time.perf_counter() - began, (_peak() - before) / 1e6
    tally.cases += 1
    if seconds > SECONDS:
        tally.note(f"more than {SECONDS:g} s", case)
    if megabytes > MEGABYTES:
        tally.note(f"more than {MEGABYTES:g} MB", case)
    tally.slowest, tally.largest = max(tally.slowest, seconds), max(tally.largest, megabytes)


def _check_words(error: BaseException, case: int, tally: Tally) -> None:
    """See that an error can be printed: as long as one can read, in characters that a terminal takes."""
    text = str(error)
    if len(text) > LONGEST_MESSAGE:
        tally.note("a message of more than a page", case)
    try:
        text.encode()
    except UnicodeEncodeError:
        tally.note("a message that is not Unicode", case)


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/taskarith/" in frame.filename]
    last = frames[-1] if frames else None
    place = f" at {last.filename.rpartition('/taskarith/')[2]}:{last.name}" if last else ""
    return f"{type(error).__name__}{place}"


def _restore(sound: Path, place: Path, changed: str) -> None:
    """Put back what was damaged, and take away what the reader wrote."""
    target = place / changed
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if (sound / changed).is_dir():
        shutil.copytree(sound / changed, target)
    else:
        shutil.copyfile(sound / changed, target)
    for one in place.iterdir():
        if not (sound / one.name).exists():
            shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()


def _reset_peak() -> int:
    """Let the kernel count the peak of this process's memory anew; return what it holds now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _memory("VmRSS")


def _peak() -> int:
    return _memory("VmHWM")


def _memory(key: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{key}:")[2].split()[0]) * 1024


@contextlib.contextmanager
def _limited() -> Generator[None]:
    """Bound the addresses of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = _memory("VmSize") + _ROOM
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
