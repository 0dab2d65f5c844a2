"""Try an adapter's layout with PEFT, and change it until PEFT loads all of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from taskarith.architecture.lookup import lost_by_peft
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.errors import MismatchError, OutputError
from taskarith.vectors.lora.layout import FolderLayout

__all__ = ["tried_layout"]

_ROUNDS = 8


def tried_layout(first: FolderLayout, base: Checkpoint, moved: Collection[str]) -> FolderLayout:
    """Change a layout until PEFT loads it, where the model can be built.

    :param first: What ``first_layout`` returned.
    :param base: The base.
    :param moved: Stored tensors whose delta is not zero.
    :raises MismatchError: PEFT finds no layout that it loads.
    """
    layout = first.levelled()
    if not layout.architecture.model_class:
        return layout
    for _ in range(_ROUNDS):
        lost = _lost(layout, base)
        if not lost:
            return replace(layout, rest=tuple(tensor for tensor in layout.rest if tensor in moved))
        for parameter in lost:
            layout = layout.without(parameter, base)
        layout = replace(layout, ranks={one: first.ranks[one] for one in layout.ranks}).levelled()
    raise MismatchError(
        f"PEFT cannot load the adapter of {base.path} however it is laid out",
        "Write a task vector file instead: -o forget.safetensors",
    )


def _lost(layout: FolderLayout, base: Checkpoint) -> list[str]:
    """Return the parameters that PEFT would lose."""
    names = dict(layout.whole_names())
    for parameter in layout.ranks:
        names |= dict.fromkeys(layout.factor_names(parameter), parameter)
    try:
        lost = _try(layout, base)
    except OutputError:
        raise
    except Exception as error:  # PEFT raises many kinds where it cannot load
        return _culprits(layout, base) or _give_up(error)
    return list(dict.fromkeys(names[key] for key in names if key in lost))


def _give_up(error: Exception) -> list[str]:
    raise MismatchError(
        f"PEFT cannot load such an adapter: {str(error).strip().partition(chr(10))[0]}",
        "Write a task vector file instead: -o forget.safetensors",
    ) from error


def _try(layout: FolderLayout, base: Checkpoint) -> set[str]:
    shapes = layout.shapes()
    return lost_by_peft(base, layout.architecture.model_class, layout.config("base", None), shapes) if shapes else set()


def _culprits(layout: FolderLayout, base: Checkpoint) -> list[str]:
    """Find the parts with which PEFT fails, by trying those with the same last names one group after the other."""
    groups: dict[tuple[str, str], list[str]] = {}
    saved = [one for held in layout.saved.values() for one in held]
    for parameter in (*layout.ranks, *layout.biases, *layout.tied, *saved):
        module, _, leaf = parameter.rpartition(".")
        groups.setdefault((module.rpartition(".")[2], leaf), []).append(parameter)
    anchor = next(iter(groups.values()))  # factors: PEFT wants some in every adapter
    found = [group for group in groups.values() if not _loads(layout.only({*group, *anchor}), base)]
    if not found:  # each loads alone: which one hinders the others
        everything = {parameter for group in groups.values() for parameter in group}
        found = [group for group in groups.values() if _loads(layout.only(everything - {*group}), base)]
    return [parameter for group in found for parameter in group]


def _loads(layout: FolderLayout, base: Checkpoint) -> bool:
    try:
        _try(layout, base)
    except OutputError:
        raise
    except Exception:
        return False
    return True
