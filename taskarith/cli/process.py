"""Process setup for commands: standard streams, escaped logs, Ctrl-C, and what Python and threads do meanwhile."""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from taskarith.errors import escaped_lines

__all__ = ["end_on_interrupt", "escape_logs", "interruptible", "open_streams", "save_time"]


def open_streams() -> None:
    """Reopen closed standard streams on the null device, and escape characters that a stream's encoding lacks.

    Otherwise the next file opened would get the descriptor of a closed stream, and everything printed to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        else:
            stream.reconfigure(errors="backslashreplace")


def save_time() -> None:
    """Look for garbage less often, and let idle threads of torch wait as briefly as pays; before torch is imported.

    What imports create stays, and looking for garbage in it takes a tenth of their time. Idle threads spin for
    milliseconds by default, which is time taken from other programs on the same cores; without any spinning, steps of
    small batches take up to a fifth longer. A policy that is set stays.
    """
    gc.set_threshold(10_000)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def end_on_interrupt() -> None:
    """Let Ctrl-C end the process silently while no command is running; see ``interruptible``."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it is ignored in background jobs
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def interruptible() -> Generator[None]:
    """Let Ctrl-C raise ``KeyboardInterrupt`` while a command runs, so that it can clean up."""
    is_silent = threading.current_thread() is threading.main_thread()
    is_silent = is_silent and signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    report = sys.unraisablehook
    if is_silent:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = partial(_report_ignored, report)
    try:
        yield
    finally:
        if is_silent:
            sys.unraisablehook = report
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise ``KeyboardInterrupt``, but not in the middle of an import: then the signal comes again a moment later.

    An import turns it into other errors, or C++ that cannot pass it on aborts the process.
    """
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _interrupt_again()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _interrupt_again() -> None:
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.05)


def _report_ignored(report: Callable[[Any], object], ignored: Any) -> None:
    """Report an exception that Python cannot raise, such as one in a destructor; an interrupt comes again instead."""
    if issubclass(ignored.exc_type, KeyboardInterrupt):
        _interrupt_again()
    else:
        report(ignored)


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


_NOISE = "bitsandbytes.backends.cpu.ops"
"""What says, wherever PEFT is imported on a processor with AVX512-BF16, that a faster kernel is not installed."""


def escape_logs() -> None:
    """Escape control characters in the log messages of libraries, which may quote untrusted files; leave out noise."""
    logging.getLogger(_NOISE).setLevel(logging.ERROR)
    make = logging.getLogRecordFactory()

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        try:
            message = made.getMessage()
        except Exception:  # a library's faulty log call, which logging reports itself
            return made
        made.msg, made.args = escaped_lines(_COLOURS.sub("", message)), None
        return made

    logging.setLogRecordFactory(record)
