"""That all processes of an edit have the same plan and the same inputs, which may lie on several machines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import xxhash

from taskarith.checkpoints.team import Team
from taskarith.edit.plan import EditPlan
from taskarith.errors import MismatchError
from taskarith.progress import SILENT, Listener

__all__ = ["agreed_plan"]

_PIECE = 1 << 20


def agreed_plan(plan: EditPlan, team: Team, listener: Listener = SILENT) -> str:
    """Return the fingerprint of the plan, as the first process has it, once all have told that theirs is the same.

    Inodes and times tell whether it is one file that all see. Where they differ, there are several copies, which are
    read from end to end and compared by their contents.

    :param plan: This process's plan.
    :param team: All processes.
    :param listener: Receives progress updates.
    :raises MismatchError: A process has another plan, or other inputs; all of them raise it.
    """
    if team.size == 1:
        return plan.fingerprint()
    states = [plan.states[path] for path in sorted(plan.states)]
    told = team.gather((plan.fingerprint(), plan.decisions(), _sizes(plan), [state[1:] for state in states]))
    for rank, (_, decisions, sizes, _) in enumerate(told):
        if len(sizes) != len(told[0][2]):
            extra = _more(sizes, told[0][2])
            raise MismatchError(
                f"process {rank} reads {len(sizes)} input files and process 0 reads {len(told[0][2])}; "
                f"the difference includes {extra}",
                "Start all of them in folders where models, vectors and the bases they record have the same paths.",
            )
        if sizes != told[0][2]:
            raise _differ(rank, _first(told[0][2], sizes))
        if decisions != told[0][1]:
            raise MismatchError(
                f"process {rank} would make another edit than process 0",
                "Start all of them with one command, one release of taskarith and of what it builds on, and one model.",
            )
    if any(states != told[0][3] for *_, states in told):
        contents = team.gather([*zip(_sizes(plan), _contents(plan, listener), strict=True)])
        for rank, found in enumerate(contents):
            if found != contents[0]:
                raise _differ(rank, _first(contents[0], found)[0])
    return told[0][0]


def _sizes(plan: EditPlan) -> list[tuple[str, int]]:
    """Return names and sizes of all inputs."""
    return [(Path(path).name, plan.states[path][2]) for path in sorted(plan.states)]


def _contents(plan: EditPlan, listener: Listener) -> list[str]:
    found, total = [], sum(state[2] for state in plan.states.values())
    done = 0
    for path in sorted(plan.states):
        state = xxhash.xxh3_128()
        with Path(path).open("rb") as file:
            while piece := file.read(_PIECE):
                state.update(piece)
                done += len(piece)
                listener.progress("comparing the inputs of all processes", done, total)
        found.append(state.hexdigest())
    return found


def _first(ours: list, theirs: list) -> tuple:
    """Return the first entry that differs."""
    return next(one for one, other in zip(ours, theirs, strict=True) if one != other)


def _more(one: list[tuple[str, int]], other: list[tuple[str, int]]) -> str:
    """Return the name of a file that the longer list has more often than the shorter one."""
    short, long = sorted((one, other), key=len)
    return next(iter(Counter(long) - Counter(short)))[0]


def _differ(rank: int, file: tuple[str, int]) -> MismatchError:
    return MismatchError(
        f"process {rank} has another {file[0]} than process 0",
        "Give all processes the same inputs: copy them again, or put them where all machines see them.",
    )
