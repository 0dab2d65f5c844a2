"""How many lines of taskarith a command runs: the same on every machine, unlike seconds."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from commands import invoke

import taskarith

PACKAGE = str(Path(taskarith.__file__).parent)
SLACK = 1.1
"""By how much the lines for one item may grow with the number of items."""


def lines_run(words):
    """Run a command and count the lines of taskarith that run."""
    count, lock = 0, threading.Lock()

    def enter(frame, _event, _argument):
        return line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def line(_frame, event, _argument):
        nonlocal count
        if event == "line":
            with lock:
                count += 1
        return line

    before = sys.gettrace()
    threading.settrace(enter)
    sys.settrace(enter)
    try:
        done = invoke(*words)
    finally:
        sys.settrace(before)
        threading.settrace(before)
    assert done.exit_code in {0, words[0] == "diff"}, done.output
    return count
