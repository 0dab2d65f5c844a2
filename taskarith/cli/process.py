"""What the process of a command needs: open streams, logs that are safe to print, Ctrl-C at the right time."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskarith.errors import escaped_lines

__all__ = ["end_on_interrupt", "escape_logs", "interruptible", "open_streams"]


def open_streams() -> None:
    """Open standard streams that were closed, and let all of them take every character.

    A file would get the number of a closed one, and what is printed with it. What an encoding does not have, a name of
    a file that is not Unicode for one, is escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        else:
            stream.reconfigure(errors="backslashreplace")


def end_on_interrupt() -> None:
    """Let Ctrl-C end the process at once, and in silence, while no command is at work; see ``interruptible``."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it may be ignored, as in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def interruptible() -> Generator[None]:
    """Let Ctrl-C raise ``KeyboardInterrupt`` where ``end_on_interrupt`` was called: what was begun is put in order."""
    is_silent = threading.current_thread() is threading.main_thread()
    is_silent = is_silent and signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    if is_silent:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if is_silent:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def escape_logs() -> None:
    """Let libraries log what they quote of files without what a terminal would act on."""
    make = logging.getLogRecordFactory()

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        try:
            message = made.getMessage()
        except Exception:  # a library's own slip, which logging reports and goes on
            return made
        made.msg, made.args = escaped_lines(_COLOURS.sub("", message)), None
        return made

    logging.setLogRecordFactory(record)
