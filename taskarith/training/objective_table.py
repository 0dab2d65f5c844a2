"""The objectives by name: what each needs, without torch, so that help and settings know them at once."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from taskarith.errors import UsageError

__all__ = ["LEARN", "OBJECTIVES", "Objective", "check_options", "check_retain", "find_objective"]

LEARN = "learn"


@dataclass(frozen=True)
class Objective:
    """What an objective needs; its formula is in ``objectives``.

    :param retain: Whether a retain set may or must be given.
    :param beta: Default of its inverse temperature; None where it does not have one.
    :param reference: What it compares with the base: nothing, the log-probability of each forget row, that of each
        token of the vocabulary in retain rows, or the hidden states of these.
    """

    retain: Literal["refused", "optional", "required"]
    beta: float | None = None
    reference: Literal["", "sequences", "vocabulary", "states"] = ""


OBJECTIVES = {
    LEARN: Objective("optional"),
    "ascent": Objective("refused"),
    "graddiff": Objective("required"),
    "kl": Objective("required", reference="vocabulary"),
    "npo": Objective("optional", beta=0.1, reference="sequences"),
    "simnpo": Objective("optional", beta=4.5),
    "rmu": Objective("required", reference="states"),
}


def find_objective(name: str) -> Objective:
    """Return an objective.

    :raises UsageError: There is none of that name.
    """
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(name.lower(), OBJECTIVES, n=1, cutoff=0.4)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown --objective '{name}'", f"{meant}Choose one of {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[name]


def check_options(name: str, given: Collection[str]) -> None:
    """Refuse options of other objectives.

    :param name: The objective.
    :param given: Names of those settings that are set.
    :raises UsageError: The objective does not exist, or does not have one of them.
    """
    objective = find_objective(name)
    if "beta" in given and objective.beta is None:
        raise UsageError(f"--beta is set, but --objective {name} does not have it", "It belongs to npo and simnpo.")
    if name != "rmu" and (of_rmu := sorted({"rmu_layer", "rmu_steering"} & {*given})):
        raise UsageError(
            f"--{of_rmu[0].replace('_', '-')} is set, but not --objective rmu", "Add it, or take the option out."
        )
    if name != LEARN and (of_batches := sorted({"packing", "group_by_length"} & {*given})):
        raise UsageError(
            f"--{of_batches[0].replace('_', '-')} is set, but --objective {name} makes its batches of pairs of rows",
            "Leave it out; it goes with learning the data.",
        )
    if "until_loss" in given and name != LEARN:
        raise UsageError(
            f"--until-loss is set, but with --objective {name} the loss of the data is to rise",
            "Limit the training with --num-train-epochs or --max-steps.",
        )


def check_retain(name: str, has_retain: bool) -> None:
    """See that there is a retain set where an objective needs one, and none where it does not use it.

    :raises UsageError: It is otherwise.
    """
    wanted = find_objective(name).retain
    if wanted == "required" and not has_retain:
        free = [other for other, one in OBJECTIVES.items() if one.retain != "required" and other != LEARN]
        raise UsageError(
            f"--objective {name} needs a retain set",
            f"Name what is to be kept with --retain FILE, or choose one of {', '.join(free)}.",
        )
    if wanted == "refused" and has_retain:
        raise UsageError(
            f"--objective {name} does not use a retain set", "Leave --retain out, or choose --objective graddiff."
        )
