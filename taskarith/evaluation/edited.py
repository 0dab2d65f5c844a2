"""An edit in memory of a model that is loaded only when the first row of it is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from taskarith.edit.in_memory import InMemoryEdit
from taskarith.errors import UsageError
from taskarith.evaluation.models import Loaded
from taskarith.progress import Listener
from taskarith.spec import OperandRef

__all__ = ["LazyEdit", "editable"]


def editable(loaded: Loaded) -> str:
    """Return the folder of a model that is to be edited in memory.

    :raises UsageError: It is an adapter.
    """
    if loaded.adapter is not None:
        raise UsageError(
            f"{loaded.name} is an adapter, which cannot be edited in memory",
            f"Name its base as the model and add the adapter: --add {loaded.name}",
        )
    return str(loaded.resolved.path)


class LazyEdit:
    """An ``InMemoryEdit`` that is made when it is first used; as a context manager it restores the model at the end.

    :param loaded: The model.
    :param edit: Arguments of ``InMemoryEdit``.
    :param listener: Told what there is to remark.
    """

    def __init__(self, loaded: Loaded, edit: Mapping[str, Any], listener: Listener) -> None:
        self._loaded, self._edit, self._listener = loaded, edit, listener

    @cached_property
    def memory(self) -> InMemoryEdit:
        """The edit in memory; the model is loaded now."""
        memory = InMemoryEdit(self._loaded.model, editable(self._loaded), **self._edit)
        for remark in memory.remarks:
            self._listener.note(remark)
        return memory

    def set(self, alpha: float, references: Sequence[OperandRef] | None = None) -> None:
        """Give the model the weights of the edit; see ``InMemoryEdit.set``."""
        self.memory.set(alpha, references)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (memory := self.__dict__.pop("memory", None)) is not None:
            memory.restore()
