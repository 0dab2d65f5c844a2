"""Correspondence between the tensors of a model's files and the parameters of its class in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

__all__ = ["Architecture", "Parameter", "Piece", "Span", "positions"]

Span: TypeAlias = tuple[int, int, int] | tuple[tuple[int, ...]]
"""Positions along one axis: ``(start, stop, step)``, or a tuple of all positions in a 1-tuple."""


def positions(span: Span) -> Sequence[int]:
    """Return the positions of a span."""
    return range(*span) if len(span) == 3 else span[0]


@dataclass(frozen=True)
class Piece:
    """A part of a stored tensor that equals a part of a parameter.

    Element ``[i, j]`` of the part is element ``[rows[i], columns[j]]`` of the parameter, or ``[rows[j], columns[i]]``
    if it is transposed; of its matrix ``expert``, if it has several and the tensor holds one.

    :param parameter: The parameter's name in memory.
    :param start: First row of the stored tensor.
    :param stop: Row after the last one.
    :param rows: Rows of the parameter; None for all.
    :param columns: Columns of the parameter; None for all.
    :param is_transposed: Whether the file holds the transpose.
    :param expert: Index of a matrix in a three-dimensional parameter; None for all, or for a single matrix.
    """

    parameter: str
    start: int
    stop: int
    rows: Span | None = None
    columns: Span | None = None
    is_transposed: bool = False
    expert: int | None = None


@dataclass(frozen=True)
class Parameter:
    """A parameter, or a saved buffer, of a model in memory.

    :param shape: Its shape.
    :param kind: Kind of its module: ``linear``, ``embedding``, ``convolution``, ``norm`` or ``other``.
    :param is_transposed: Whether a matrix is stored as in x out, as in Conv1D; None if only its shape can tell.
    """

    shape: tuple[int, ...]
    kind: str
    is_transposed: bool | None = None


@dataclass(frozen=True)
class Architecture:
    """A model's class in memory, and the location of its parameters in the files.

    :param model_class: The class in transformers; empty if the architecture was guessed from names.
    :param auto_class: The ``Auto...`` class that loads it.
    :param parameters: Parameters and saved buffers by their names in ``state_dict``.
    :param stored: Pieces of each tensor in the files that the class loads; empty if its elements are rearranged in
        a way that pieces cannot express.
    :param ties: Parameters that share memory with another one if their values agree, mapped to it.
    :param roles: ``embedding`` and ``head``: weight names of the input embedding and the output layer.
    :param remark: A remark for the user if it was guessed; else empty.
    """

    model_class: str
    auto_class: str
    parameters: Mapping[str, Parameter]
    stored: Mapping[str, tuple[Piece, ...]]
    ties: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""

    @cached_property
    def holders(self) -> Mapping[str, tuple[str, ...]]:
        """Stored tensors that hold each parameter, or parts of it, in file order."""
        holders: dict[str, list[str]] = {}
        for tensor, pieces in self.stored.items():
            for name in dict.fromkeys(piece.parameter for piece in pieces):
                holders.setdefault(name, []).append(tensor)
        return {name: tuple(tensors) for name, tensors in holders.items()}

    @cached_property
    def modules(self) -> Mapping[str, tuple[str, ...]]:
        """Own parameters of each module, in the order of registration."""
        modules: dict[str, list[str]] = {}
        for name in self.parameters:
            module, _, leaf = name.rpartition(".")
            modules.setdefault(module, []).append(leaf)
        return {module: tuple(leaves) for module, leaves in modules.items()}

    def tensor_of(self, parameter: str) -> str | None:
        """Return the stored tensor that equals the parameter, element by element, or None."""
        alone = [tensor for tensor in self.holders.get(parameter, ()) if self.parameter_of(tensor) == parameter]
        return alone[0] if alone else None

    def parameter_of(self, tensor: str) -> str | None:
        """Return the parameter that a stored tensor equals, element by element, or None."""
        pieces = self.stored.get(tensor, ())
        return pieces[0].parameter if len(pieces) == 1 and self._is_whole(pieces[0]) else None

    def spelled(self, name: str) -> str:
        """Return what this calls a parameter, a module or a stored tensor; empty if it has none of that name.

        A guessed architecture is known by the files' names only, which may lack the model's own prefix.
        """
        known = (self.parameters, self.stored, self.modules, self.ties)
        spellings = (name,) if self.model_class else (name, name.partition(".")[2])
        found = (one for one in spellings if one and any(one in names or f"{one}.weight" in names for names in known))
        return next(found, "")

    @staticmethod
    def _is_whole(piece: Piece) -> bool:
        return (piece.rows, piece.columns, piece.expert) == (None, None, None) and not piece.is_transposed

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for ``from_json``; whole parameters take a short form."""
        return {
            "model_class": self.model_class,
            "auto_class": self.auto_class,
            "parameters": {name: [list(p.shape), p.kind, p.is_transposed] for name, p in self.parameters.items()},
            "stored": {name: list(_pieces_to_json(pieces)) for name, pieces in self.stored.items()},
            "ties": dict(self.ties),
            "roles": dict(self.roles),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Architecture:
        """Read the values of ``to_json``."""
        return cls(
            value["model_class"],
            value["auto_class"],
            {name: Parameter(tuple(shape), *more) for name, (shape, *more) in value["parameters"].items()},
            {name: tuple(_piece_from_json(piece) for piece in pieces) for name, pieces in value["stored"].items()},
            value["ties"],
            value["roles"],
        )


def _pieces_to_json(pieces: Sequence[Piece]) -> Iterator[list[Any]]:
    for piece in pieces:
        span = [piece.parameter, piece.start, piece.stop]
        more = [piece.rows, piece.columns, piece.is_transposed, piece.expert]
        yield span if more == [None, None, False, None] else span + more


def _piece_from_json(value: Sequence[Any]) -> Piece:
    parameter, start, stop, *more = value
    if not more:
        return Piece(parameter, start, stop)
    rows, columns, is_transposed, expert = more
    return Piece(parameter, start, stop, _span(rows), _span(columns), is_transposed, expert)


def _span(value: Sequence[Any] | None) -> Span | None:
    if value is None:
        return None
    return (value[0], value[1], value[2]) if len(value) == 3 else (tuple(value[0]),)
