"""How long a run will take, as soon as the first steps of learning show it."""

from __future__ import annotations

import time

from taskarith.progress import Listener

__all__ = ["LONG", "Forecast"]

LONG = 60.0
"""Seconds from which an estimate is worth a line."""
_STEPS = 3
"""Steps that are timed, after a first one, which takes longer."""


class Forecast:
    """Passes on what a training says, and tells once how long it and all that follows will take.

    :param listener: Is told.
    :param lessons: What is to be learned, of which this training learns the first part: at least 1.
    :param rest: Seconds of what follows after learning.
    """

    def __init__(self, listener: Listener, lessons: float, rest: float) -> None:
        self._listener, self._lessons, self._rest = listener, lessons, rest
        self._first: tuple[float, float] | None = None
        self._is_told = False

    def note(self, message: str) -> None:
        """Pass on a remark."""
        self._listener.note(message)

    def progress(self, what: str, done: float, total: float) -> None:
        """Pass on progress, and tell how long it will take."""
        self._listener.progress(what, done, total)
        if self._is_told or not what.startswith("training"):
            return
        now = time.perf_counter()
        if self._first is None:
            self._first = now, done
            return
        start, before = self._first
        if done < before + _STEPS:
            return
        self._is_told = True
        step = (now - start) / (done - before)
        learning = step * (self._lessons * total - done)
        if learning + self._rest > LONG:
            self._listener.note(
                f"by these steps and the measurement before, learning takes at most {_minutes(learning)} min more, "
                f"and all that follows {_minutes(self._rest)}"
            )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f}" if seconds >= LONG else f"{seconds / 60:.1f}"
