"""Units of long work, each on disk when it is finished: after an interruption the same command calculates the others.

What is measured takes hours where what is edited takes minutes. So nothing that is finished is thrown away, whatever
ends a run, and no other command removes it without being told to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from taskarith.checkpoints.journal import Journal, count_pieces, other_run
from taskarith.checkpoints.lock import check_unlocked
from taskarith.checkpoints.publish import publish
from taskarith.checkpoints.reader import fingerprint_bytes
from taskarith.checkpoints.rooms import room_of
from taskarith.checkpoints.targets import check_room
from taskarith.errors import CheckpointError, OutputError, name_some
from taskarith.progress import Listener

__all__ = ["Batches", "Units", "units_of"]

_Value = TypeVar("_Value")
_UNFIT = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What reading a value raises that is not of the kind that is expected."""
_SYNC_SECONDS = 1.0


class Units:
    """What is finished, by name, by this run and by earlier ones of the same plan.

    :param journal: Where it is kept; None keeps nothing, as in a run without an output.
    :param room: The folder of the journal.
    :param start: Begins the names of all units.
    """

    def __init__(self, journal: Journal | None = None, room: Path = Path(), start: str = "") -> None:
        self._journal, self._room, self._start = journal, room, start

    def within(self, name: str) -> Units:
        """Return the units of a part of the work."""
        return Units(self._journal, self._room, f"{self._start}{name} | ")

    def get(self, name: str, read: Callable[[Any], _Value]) -> _Value | None:
        """Return a finished unit, or None.

        :param read: Makes the value of what ``put`` was given; raises ValueError or the like where that is impossible.
        :raises OutputError: It is not what ``put`` was given by a run of this plan.
        """
        whole = f"{self._start}{name}"
        if self._journal is None or whole not in self._journal.done:
            return None
        try:
            return read(self._journal.done[whole]["value"])
        except _UNFIT as error:
            raise OutputError(
                f"{self._room} holds a result of '{whole}' that no run of this command has measured: {error!r}",
                f"Move {self._room} away to start over.",
            ) from error

    def put(self, name: str, value: Any) -> None:
        """Keep what is finished: plain values of JSON. It survives this process, and a second later the machine."""
        if self._journal is None:
            return
        self._journal.record(f"{self._start}{name}", {"value": value})
        self._journal.sync(after=_SYNC_SECONDS)

    def names(self) -> list[str]:
        """Return the names of all finished units."""
        done, start = self._journal.done if self._journal else {}, self._start
        return [name.removeprefix(start) for name in done if name.startswith(start)]


class Batches:
    """The finished batches of one stage of work, such as the losses of one model.

    :param units: Those of the stage.
    :param pack: Makes plain values of JSON of an item's result.
    :param unpack: Takes the number of an item and such values, and returns the result; raises ValueError or the like.
    """

    def __init__(self, units: Units, pack: Callable[[Any], Any], unpack: Callable[[int, Any], Any]) -> None:
        self._units, self._pack, self._unpack = units, pack, unpack

    def finished(self) -> dict[tuple[int, ...], list[Any]]:
        """Return the results of all finished batches, by the items of each."""
        return dict(filter(None, [self._units.get(name, self._read) for name in self._units.names()]))

    def add(self, items: list[int], results: list[Any]) -> None:
        """Keep the results of a batch."""
        self._units.put(f"{items[0]} and {len(items) - 1} more", [items, [self._pack(result) for result in results]])

    def _read(self, value: Any) -> tuple[tuple[int, ...], list[Any]]:
        items, results = value
        if not all(type(item) is int for item in items):
            raise TypeError("items are numbers")
        return tuple(items), [self._unpack(item, result) for item, result in zip(items, results, strict=True)]


@contextmanager
def units_of(
    target: Path | None,
    overwrite: bool,
    run: Callable[[], Mapping[str, Any]],
    *,
    inputs: Iterable[str | Path],
    listener: Listener,
) -> Generator[tuple[Path, Units]]:
    """Give the folder in which an output is built, see ``publish``, and what of the work for it is finished.

    :param target: The output, a folder; None is none, and nothing is kept.
    :param overwrite: Replace an output that is there, and drop what a run of another plan has finished.
    :param run: Gives what decides the results, by name: models, texts, options, versions. It is asked again at the end.
    :param inputs: What is read; see ``check_target``.
    :param listener: Receives progress updates.
    :raises CheckpointError: What decides the results changed meanwhile; nothing of them is kept.
    :raises OutputError: Another run has left finished work, or is under way; or as ``publish`` does.
    """
    if target is None:
        try:
            yield Path(), Units()
        except KeyboardInterrupt as error:
            error.add_note("Nothing is kept without an output; with -o DIR the same command goes on where it stopped.")
            raise
        return
    plain = json.loads(json.dumps(run()))
    plan = fingerprint_bytes(json.dumps(plain, sort_keys=True).encode())
    _check_leftover(target, plain, plan, overwrite=overwrite, listener=listener)
    with publish(target, overwrite, is_folder=True, plan=plan, run=plain, inputs=inputs) as place:
        if place.journal.done:
            listener.note(f"going on after {len(place.journal.done):,} pieces of work that an earlier run has finished")
        yield place.path, Units(place.journal, place.path.parent)
        now = json.loads(json.dumps(run()))
        if changed := sorted(key for key in plain.keys() | now.keys() if plain.get(key) != now.get(key)):
            place.journal.retire()  # nobody knows which of it was measured before, and which after
            raise CheckpointError(
                f"{name_some(changed)} changed while this ran", "Let no other program write the inputs, and run again."
            )


def _check_leftover(target: Path, run: Mapping[str, Any], plan: str, *, overwrite: bool, listener: Listener) -> None:
    """Refuse to drop what another run has finished, or say that it is dropped."""
    room = room_of(target)
    check_room(room)
    check_unlocked(room, target)
    count, other = count_pieces(room / "journal.jsonl"), other_run(room / "journal.jsonl", plan)
    if other is None or not count:
        return
    changed = sorted(key for key in run.keys() | other.keys() if run.get(key) != other.get(key))
    how = f"differs in {name_some(changed)}" if other else "cannot be told"
    if overwrite:
        listener.note(f"{count:,} pieces of work are dropped that an interrupted run has left in {room}: it {how}")
        return
    raise OutputError(
        f"an interrupted run that {how} has left {count:,} finished pieces of work in {room}",
        "Repeat that command to go on with it, or start over with --overwrite.",
    )
