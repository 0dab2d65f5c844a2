"""Factors of low rank of all deltas of a fine-tune, and where an adapter folder has them."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taskarith.architecture.layout import positions
from taskarith.architecture.lookup import architectures_of
from taskarith.arithmetic.calculator import Calculator
from taskarith.arithmetic.parallel import Workers, matrices_at_once, work_through
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader, combine_fingerprints
from taskarith.checkpoints.resolve import ResolvedModel
from taskarith.errors import MismatchError, name_some
from taskarith.progress import Listener
from taskarith.vectors.delta_rows import DeltaRows
from taskarith.vectors.difference import PairSource
from taskarith.vectors.lora.layout import FolderLayout, factor_shapes, first_layout, takes_factors
from taskarith.vectors.lora.peft_layout import tried_layout
from taskarith.vectors.lora.write import adapter_file, pack_factors, write_adapter
from taskarith.vectors.ties import tied_tensors
from taskarith.vectors.vector import BaseRecord

__all__ = ["Factoring", "Unit"]


class Factoring:
    """The deltas of a fine-tune while they are factored.

    :param base: The base.
    :param tuned: The fine-tune.
    :param source: Both, tensor by tensor.
    :param want: The rank of every matrix, or the share of its energy that is kept; the other one is None.
    :param dtype: Of the factors, as safetensors names it.
    :param device: Where the eigenvectors are found.
    :param listener: Receives progress updates.
    """

    def __init__(
        self,
        base: Checkpoint,
        tuned: Checkpoint,
        source: PairSource,
        want: tuple[int | None, float | None],
        dtype: str,
        device: str,
        listener: Listener,
    ) -> None:
        self.source = source
        self.architecture = next(architectures_of(base, listener))
        self.fingerprints: dict[str, dict[str, str]] = {}
        self.ranks: dict[str, int] = {}
        self.energies: dict[str, tuple[float, float]] = {}
        self._moved: set[str] = set()
        self._base, self._tuned, self._want, self._dtype, self._device = base, tuned, want, dtype, device
        self._broken: list[str] = []
        self._numbers = {name: index for index, name in enumerate(self.architecture.parameters)}
        with TensorReader() as reader:
            self._tied = tied_tensors(base, self.architecture, reader, base.tensors)

    def measure(self, scratch: Path, listener: Listener) -> None:
        """Factor all parameters that move into files of their own, the largest first, and note what else moves."""
        self.fingerprints = dict(self.source.rest)
        tensors, factors = [self._base.tensors[name] for name in self.source.shapes], self.units()
        with TensorReader() as reader:
            self._work(tensors, lambda entry: self._fingerprint(entry, reader), listener, "comparing")
            count = matrices_at_once(self._device)
            self._work(factors, lambda unit: self._factor(unit, reader, scratch), listener, "factoring", count)
            done = {tensor for unit in factors if unit.parameter in self.ranks for tensor in unit.tensors}
            left = self._moved - done - {*self._broken}
            others = [entry for entry in tensors if entry.name in left]
            self._work(others, lambda entry: self._measure(entry, reader), listener, "measuring")
        if self._broken:
            raise MismatchError(
                f"{len(self._broken)} deltas are not finite: {name_some(sorted(self._broken))}",
                "A model has infinities or NaN there: check it.",
            )
        self.ranks = {name: self.ranks[name] for name in self.architecture.parameters if name in self.ranks}

    def units(self) -> list[Unit]:
        """Return what gets factors if it moves.

        :raises MismatchError: Nothing does.
        """
        tied = {name for source, others in self._tied.items() for name in (source, *others)}
        shared = {self.architecture.parameter_of(name) or name for name in tied}
        factors = [
            Unit(parameter, self.architecture.holders[parameter], math.prod(one.shape))
            for parameter, one in self.architecture.parameters.items()
            if takes_factors(self.architecture, parameter, shared) and self._is_stored(parameter)
        ]
        if not factors:
            raise MismatchError(
                f"no adapter can change what moves: {name_some(sorted(self.source.shapes))} are in none of its layers",
                "Write a task vector file: -o forget.safetensors",
            )
        return factors

    def _work(
        self,
        tasks: Sequence[Any],
        act: Callable[[Any], None],
        listener: Listener,
        what: str,
        count: int | None = None,
    ) -> None:
        def do(task: Any, calculator: Calculator, stop: threading.Event) -> int:
            del calculator
            if not stop.is_set():
                act(task)
            return task.elements

        tasks = sorted(tasks, key=lambda task: -task.elements)
        total = sum(task.elements for task in tasks)
        work_through(tasks, do, listener, what, total, Workers("torch", chunk=1, count=count))

    def _is_stored(self, parameter: str) -> bool:
        """Tell whether the files hold all of a parameter, in tensors that have a delta."""
        holders = self.architecture.holders.get(parameter, ())
        if not holders or any(name not in self.source.shapes for name in holders):
            return False
        shape, stored = self.architecture.parameters[parameter].shape, 0
        for name in holders:
            pieces = self.architecture.stored[name]
            if len(pieces) > 1:
                return False  # what else the tensor holds would need factors, too
            stored += self._base.tensors[name].elements
        return stored == math.prod(shape)

    def _fingerprint(self, entry: TensorEntry, reader: TensorReader) -> None:
        tuned = self._tuned.tensors[entry.name]
        self.fingerprints[entry.name] = {"base": reader.fingerprint(entry), "finetuned": reader.fingerprint(tuned)}
        if len(set(self.fingerprints[entry.name].values())) > 1:
            self._moved.add(entry.name)

    def _measure(self, entry: TensorEntry, reader: TensorReader) -> None:
        """Find out how far a tensor without factors moves."""
        total = DeltaRows(entry, self._tuned.tensors[entry.name], reader).squares()
        if not math.isfinite(total):
            self._broken.append(entry.name)
        elif total or entry.dtype == self._tuned.tensors[entry.name].dtype:
            self.energies[entry.name] = total, total
        else:
            self._moved.discard(entry.name)  # the same numbers in another dtype

    def _factor(self, unit: Unit, reader: TensorReader, scratch: Path) -> None:
        from taskarith.vectors.svd import best_fit

        if not self._moved & {*unit.tensors}:
            return
        parameter = self.architecture.parameters[unit.parameter]
        *many, rows, columns = parameter.shape
        fits, parts = [], self._parts(unit)
        for expert in range(math.prod(many)):
            delta = self._rows(unit, expert, parts[None] + parts[expert], reader)
            fit = best_fit(delta, (rows, columns), *self._want, self._device)
            if fit is None:
                self._broken += unit.tensors
                return
            fits.append(fit)
        rank = max(fit.rank for fit in fits)
        if not 0 < rank * (rows + columns) * len(fits) < unit.elements:
            return
        is_turned = bool(parameter.is_transposed) or parameter.kind == "embedding"
        sides = [fit.left.numpy() for fit in fits], [fit.right.numpy() for fit in fits]
        for role, data in zip("AB", pack_factors(*sides, is_turned, self._dtype), strict=True):
            (scratch / f"{self._numbers[unit.parameter]}.{role}").write_bytes(data)
        self.ranks[unit.parameter] = rank
        self.energies[unit.parameter] = sum(fit.kept for fit in fits), sum(fit.total for fit in fits)

    def _parts(self, unit: Unit) -> defaultdict[int | None, list[str]]:
        """Return the tensors that hold a parameter by the expert that they belong to, None for those of all."""
        parts = defaultdict[int | None, list[str]](list)
        for name in unit.tensors:
            parts[self.architecture.stored[name][0].expert].append(name)
        return parts

    def _rows(
        self, unit: Unit, expert: int, parts: Sequence[str], reader: TensorReader
    ) -> Callable[[int, int], torch.Tensor]:
        """Return what gives rows of the delta of a parameter, or of one of its experts.

        :param parts: The tensors that hold them, if the parameter is not stored as it is.
        """
        architecture, height = self.architecture, self.architecture.parameters[unit.parameter].shape[-2]
        if architecture.parameter_of(unit.tensors[0]) == unit.parameter:
            entry = self._base.tensors[unit.tensors[0]]
            pair = DeltaRows(entry, self._tuned.tensors[entry.name], reader)
            return lambda start, stop: pair.rows(expert * height + start, expert * height + stop)
        whole = torch.zeros(architecture.parameters[unit.parameter].shape[-2:], dtype=torch.float64)
        for name in parts:
            (piece,) = architecture.stored[name]
            entry = self._base.tensors[name]
            holds_all = piece.expert is None and len(entry.shape) == 3 and entry.shape[0] > expert
            shape, at = (entry.shape[1:], expert) if holds_all else (entry.shape, 0)
            count = math.prod(shape[:-1])
            delta = DeltaRows(entry, self._tuned.tensors[name], reader).rows(at * count, (at + 1) * count)
            delta = delta.reshape(shape)
            delta = delta.T if piece.is_transposed else delta
            rows, columns = (
                torch.arange(size) if span is None else torch.tensor(positions(span))
                for span, size in ((piece.rows, whole.shape[0]), (piece.columns, whole.shape[1]))
            )
            whole[rows[:, None], columns[None, :]] = delta
        return lambda start, stop: whole[start:stop]

    def suppose(self) -> FolderLayout:
        """Return the layout if everything moves, and no matrix does with a lower rank than it may have."""
        wanted, parameters = self._want[0], self.architecture.parameters
        sides = {one.parameter: parameters[one.parameter].shape[-2:] for one in self.units()}
        smaller = {one: (rows * columns - 1) // (rows + columns) for one, (rows, columns) in sides.items()}
        self._moved = {*self.source.shapes}
        self.ranks = {one: wanted or most for one, most in smaller.items() if 0 < (wanted or most) <= most}
        return self.lay_out()

    def lay_out(self) -> FolderLayout:
        """Decide where the moved tensors go.

        :raises MismatchError: None of them has factors.
        """
        if not self.ranks:
            raise MismatchError(
                "no matrix has a delta that is smaller as factors",
                "Lower the rank, or write a task vector file: -o forget.safetensors",
            )
        first = first_layout(self.architecture, self._base, self._moved, self.ranks, self._tied)
        return tried_layout(first, self._base, self._moved)

    def keep(self, layout: FolderLayout) -> None:
        """Take note that what PEFT cannot hold is kept as it is."""
        for parameter in [one for one in self.ranks if one not in layout.ranks]:
            total = self.energies[parameter][1]
            self.energies[parameter] = total, total
        self.ranks = dict(layout.ranks)

    def record(self, resolved: ResolvedModel) -> BaseRecord:
        """Return the base, by name and fingerprint."""
        fingerprints = {name: sides["base"] for name, sides in self.fingerprints.items() if "base" in sides}
        return BaseRecord.of(resolved, fingerprints)

    def finetuned(self) -> str:
        """Return the fingerprint of the fine-tune."""
        return combine_fingerprints(
            {n: sides["finetuned"] for n, sides in self.fingerprints.items() if "finetuned" in sides}
        )

    def label(self, parameter: str) -> str:
        """Return the stored tensor that a parameter is, or its own name where it is stored in parts."""
        return self.architecture.tensor_of(parameter) or parameter

    def most_bytes(self, layout: FolderLayout) -> int:
        """Return the size of the adapter's file at most: for a share of the energy all may be stored as it is."""
        size = adapter_file(layout, self._dtype, self._whole(layout))[2]
        if self._want[0] is not None:
            return size
        for parameter, rank in layout.ranks.items():
            factors = sum(map(math.prod, factor_shapes(self.architecture, parameter, rank))) * ITEM_SIZES[self._dtype]
            whole = sum(self._tuned.tensors[name].nbytes for name in self.architecture.holders[parameter])
            size += max(0, whole - factors)
        return size

    def _whole(self, layout: FolderLayout) -> dict[str, TensorEntry]:
        """Return what the adapter has as it is, by its names in it."""
        return {name: self._tuned.tensors[self.label(parameter)] for name, parameter in layout.whole_names()}

    def write(self, folder: Path, record: BaseRecord, scratch: Path, layout: FolderLayout) -> int:
        """Put the adapter folder together and return the size of its weights."""

        def factors(parameter: str) -> tuple[bytes, bytes]:
            a, b = ((scratch / f"{self._numbers[parameter]}.{role}").read_bytes() for role in "AB")
            return a, b

        return write_adapter(folder, layout, record, self._dtype, factors, self._whole(layout))


@dataclass(frozen=True)
class Unit:
    """A parameter that may get factors.

    :param parameter: Its name in memory.
    :param tensors: The stored tensors that hold it.
    :param elements: Their elements.
    """

    parameter: str
    tensors: tuple[str, ...]
    elements: int
