"""An edit in memory of a model that is loaded when its first row is measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

from taskarith.edit.edit import Edit
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.edit.recipe import Recipe
from taskarith.errors import UsageError
from taskarith.evaluation.models import Loaded
from taskarith.progress import Listener
from taskarith.spec import plain_scales

__all__ = ["LazyEdit", "edit_record", "editable"]


def editable(loaded: Loaded) -> str:
    """Return the folder of a model to edit in memory.

    :raises UsageError: It is an adapter.
    """
    if loaded.adapter is not None:
        raise UsageError(
            f"{loaded.name} is an adapter, which cannot be edited in memory",
            f"Name its base as the model and add the adapter: --add {loaded.name}",
        )
    return str(loaded.resolved.path)


def edit_record(
    edit: Edit, alphas: Sequence[float], add: Sequence[str], negate: Sequence[str], recipe: Recipe | None
) -> dict[str, Any]:
    """Return an edit as the user wrote it, without unset options.

    :param edit: The edit.
    :param alphas: Coefficients of the rows.
    :param add: Vectors as the user named them.
    :param negate: Vectors to subtract, as the user named them.
    :param recipe: The recipe that holds the edit instead, if any.
    """
    scale = plain_scales(edit.scale)
    if recipe is None:
        return {"add": [*add], "negate": [*negate], "alphas": [*alphas], **({"scale": scale} if scale else {})}
    operands = [
        {
            "name": operand.name,
            **({"base": operand.base} if operand.base else {}),
            "coefficient": operand.coefficient,
            "scale": plain_scales(operand.scale),
            "role": operand.role,
        }
        for operand in recipe.operands
    ]
    given = {
        "operands": operands,
        "protect": recipe.listed("protect"),
        "weights": recipe.options.get("weights"),
        "method": edit.method.record(),
        "scale": recipe.options.get("scale"),
    }
    named = {"add": recipe.listed("add"), "negate": recipe.listed("negate")}
    return {**named, **{key: value for key, value in given.items() if value}, "alphas": [*alphas]}


class LazyEdit:
    """An ``InMemoryEdit`` created at first use; as a context manager it restores the model at the end.

    :param loaded: The model.
    :param edit: The edit to prepare.
    :param listener: Receives the edit's remarks.
    """

    def __init__(self, loaded: Loaded, edit: Edit, listener: Listener) -> None:
        self._loaded, self._edit, self._listener = loaded, edit, listener

    @cached_property
    def memory(self) -> InMemoryEdit:
        """The edit in memory; the first access loads the model."""
        memory = InMemoryEdit.of(self._loaded.model, editable(self._loaded), self._edit)
        for remark in memory.remarks:
            self._listener.note(remark)
        return memory

    def make(self, edit: Edit) -> None:
        """Set the model to the weights of an edit; see ``InMemoryEdit.make``."""
        self.memory.make(edit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if (memory := self.__dict__.pop("memory", None)) is not None:
            memory.restore()
