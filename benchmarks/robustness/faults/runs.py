"""Runs of taskarith in processes of their own that can be disturbed at any step."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["LONGEST", "Disturbance", "Ended", "Running", "refuse_writes"]

_STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.link"}
"""What is counted, in the folder of a run: all that Python does with names and files, apart from writing and syncing.

The exchange of two names is counted as the call of a C function that it is.
"""

LONGEST = 120.0
"""Seconds after which a run hangs, and is ended."""


@dataclass(frozen=True)
class Disturbance:
    """What happens to a run from inside.

    :param step: When ``act`` is called: before this step, counted from 1. Never if it is 0.
    :param act: Called in the process that runs.
    :param prepare: Called there before the first step.
    :param output: File descriptors that take the place of stdout and stderr.
    :param encoding: Of stdout and stderr.
    """

    step: int = 0
    act: Callable[[], object] = int
    prepare: Callable[[], object] = int
    output: tuple[int | None, int | None] = (None, None)
    encoding: str = "utf-8"


_UNDISTURBED = Disturbance()


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    :param code: Exit code, or the number of the signal that ended it, negative.
    :param steps: Steps that it took, where it came to its end.
    :param modules: What it had to import.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    steps: int = 0
    modules: tuple[str, ...] = ()


@dataclass
class Running:
    """A call of taskarith that has begun, in a child of this process: nothing is imported again.

    :param words: Of the command line.
    :param folder: Where it is run; its steps are counted in it.
    :param disturbance: What happens to it from inside.
    """

    words: list[str]
    folder: Path
    disturbance: Disturbance = _UNDISTURBED
    pid: int = field(init=False)

    def __post_init__(self) -> None:
        ready, tell = os.pipe()
        self._files = [os.memfd_create("out"), os.memfd_create("err"), os.memfd_create("steps")]
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(ready)
            code = 70
            try:
                code = _child(self.words, self.folder, self.disturbance, self._files, tell)
            except KeyboardInterrupt:  # before the program has begun, or after its end
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                os._exit(code)
        os.close(tell)
        os.read(ready, 1)
        os.close(ready)
        self._began = time.perf_counter()

    def end(self, number: int | None = None, after: float = 0.0) -> Ended:
        """Wait for its end, having sent it a signal after some seconds."""
        if number is not None:
            time.sleep(after)
            os.kill(self.pid, number)  # of a process that has ended, too: it is waited for below
        status = self._wait()
        seconds = time.perf_counter() - self._began
        out, err, steps = (_content(file) for file in self._files)
        count, *modules = steps.split() or ["0"]
        return Ended(os.waitstatus_to_exitcode(status), out, err, seconds, int(count), tuple(modules))

    def is_gone(self, patience: float = 10.0) -> bool:
        """Tell whether no process is left that it started; those that are left are ended."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.02)
        os.killpg(self.pid, signal.SIGKILL)
        return False

    def _wait(self) -> int:
        deadline = time.monotonic() + LONGEST
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return status
            time.sleep(0.002)
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return signal.SIGKILL


def refuse_writes(error: int) -> None:
    """Let the kernel refuse this process, from now on, all writing into files with an error such as ``EDQUOT``.

    A filter of system calls (seccomp) does it, so it holds for libraries that are not written in Python, too; the
    standard streams are left alone. No right is needed, and there is no way back.
    """
    write, filter_call, calls = _CALLS[platform.machine()]
    load, equal, greater, give = 0x20, 0x15, 0x25, 0x06  # of BPF: load a word, jump if, jump if greater, return
    allow, refuse = 0x7FFF0000, 0x00050000 | error
    program = [(load, 0, 0, 0)]  # the number of the call
    program += [(equal, len(calls) - index + 1, 0, call) for index, call in enumerate(calls)]
    program += [(equal, 1, 0, write), (give, 0, 0, allow)]
    program += [(load, 0, 0, 16), (greater, 1, 0, 2), (give, 0, 0, allow), (give, 0, 0, refuse)]
    code = b"".join(struct.pack("HBBI", *one) for one in program)
    held = ctypes.create_string_buffer(code)
    library = ctypes.CDLL(None, use_errno=True)
    whole = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(held)))
    all_threads = 1
    if library.prctl(38, 1, 0, 0, 0) or library.syscall(filter_call, 1, all_threads, whole):
        raise OSError(ctypes.get_errno(), "no filter of system calls")


_CALLS = {
    # write, seccomp; pwrite64, writev, pwritev, fallocate, sendfile, copy_file_range
    "x86_64": (1, 317, (18, 20, 296, 285, 40, 326)),
    "aarch64": (64, 277, (68, 66, 70, 47, 71, 285)),
}


def _child(words: list[str], folder: Path, disturbance: Disturbance, files: list[int], tell: int) -> int:
    """Run the command as the interpreter would, and return its exit code."""
    import taskarith.__main__ as program

    os.setsid()  # what it starts can be found by the number of its group
    sys.modules["__main__"] = program  # which the processes that it starts import
    os.chdir(folder)
    for number in (signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, (given, own) in enumerate(zip(disturbance.output, files, strict=False), start=1):
        os.dup2(own if given is None else given, number)
    encoding = disturbance.encoding
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv, known = ["taskarith", *words], set(sys.modules)
    disturbance.prepare()
    steps = _Steps(folder, disturbance)
    sys.addaudithook(steps)
    os.write(tell, b"x")
    os.close(tell)
    code = _call(program.main)
    steps.is_over = True
    with suppress(OSError):  # all writing may be refused
        os.write(files[2], " ".join([str(steps.count), *(sys.modules.keys() - known)]).encode())
    try:
        sys.stdout.flush()
    except OSError as error:
        os.write(2, f"Exception ignored while flushing sys.stdout: {error}\n".encode())
        code = 120
    return code


def _call(program: Callable[[], object]) -> int:
    try:
        program()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


class _Steps:
    """An audit hook that counts steps in a folder, and acts before one of them."""

    def __init__(self, folder: Path, disturbance: Disturbance) -> None:
        self.count, self.is_over = 0, False
        self._folder, self._disturbance = os.fsencode(folder), disturbance

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        is_exchange = event == "ctypes.dlsym" and given[1] == "renameat2"
        if self.is_over or not (is_exchange or (event in _STEPS and self._is_inside(given[0]))):
            return
        self.count += 1
        if self.count == self._disturbance.step:
            self.is_over = True
            self._disturbance.act()
            self.is_over = False

    def _is_inside(self, path: Any) -> bool:
        if isinstance(path, int):
            return path > 2
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return os.path.abspath(os.fsencode(path)).startswith(self._folder)  # noqa: PTH100 links are not followed


def _content(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    with open(file, "rb") as stream:
        return stream.read().decode("utf-8", "backslashreplace")
