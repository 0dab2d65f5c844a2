"""Carry out a plan: read, calculate, write at known offsets, fingerprint everything on the way."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from taskarith.arithmetic.calculator import Calculator
from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, Workers, matrices_at_once, usable_cores, work_through
from taskarith.cards.licence import CARD_NAME
from taskarith.checkpoints.checkpoint import INDEX_NAME, WEIGHTS_NAME, read_json
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.journal import are_fingerprints
from taskarith.checkpoints.publish import Workplace
from taskarith.checkpoints.reader import TensorReader, check_unchanged
from taskarith.checkpoints.sidecars import copy_sidecars
from taskarith.checkpoints.writer import HashingWriter, sized_files, write_at
from taskarith.edit.inputs import calculation, kernels_of
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.edit.stream import EditedTensor, check_terms
from taskarith.errors import MismatchError, OutputError, name_some
from taskarith.progress import SILENT, Listener

__all__ = ["RunResult", "run_plan"]


@dataclass
class RunResult:
    """Fingerprints by tensor: of the base as read, of the output as written, of each operand's deltas as read.

    ``errors`` holds the relative error of every weight that was quantised again.
    """

    base: dict[str, str] = field(default_factory=dict)
    output: dict[str, str] = field(default_factory=dict)
    operands: list[dict[str, str]] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)


def run_plan(
    plan: EditPlan,
    place: Workplace,
    *,
    device: str = "cpu",
    workers: int | None = None,
    chunk: int = CHUNK_ELEMENTS,
    listener: Listener = SILENT,
) -> RunResult:
    """Write all shards, the index and the sidecar files of an edit.

    :param plan: What to do.
    :param place: Where; tensors that its journal lists, and that are there indeed, are not done again.
    :param device: Where to calculate. Where whole matrices are decomposed it may change the last bits.
    :param workers: Tensors in work at a time; by default one a core. It changes no bit.
    :param chunk: Elements calculated at a time; it changes no bit.
    :param listener: Told the bytes written.
    :raises MismatchError: The result has values that are not finite.
    :raises CheckpointError: An input changed since the plan was made.
    """
    folder, journal, team = place.path, place.journal, place.team
    tasks = [(shard.name, tensor) for shard in plan.shards for tensor in shard.tensors]
    sizes = {folder / shard.name: shard.nbytes for shard in plan.shards}
    with TensorReader() as reader, sized_files(sizes) as files:
        work = _Work(plan, place, reader, chunk, {path.name: descriptor for path, descriptor in files.items()})

        def prepare() -> set[str]:
            for shard in plan.shards:
                write_at(work.files[shard.name], shard.header, 0)
            return journal.intact((work.output(*task) for task in tasks), listener, work.fits)

        done = place.begin(prepare)
        left = [task for task in tasks if task[1].action != "rescaled" and not work.names(task[1]) <= done]
        left = team.share(sorted(left, key=lambda task: -task[1].nbytes))
        total = sum(tensor.nbytes for _, tensor in left)
        count = workers or max(1, usable_cores() // team.local_size)
        if plan.whole_tensors:
            count = min(count, matrices_at_once(device) or count)
        threads = Workers(device, chunk, count, plan.edit.method.needs_torch, kernels_of(plan))
        work_through(left, work.do, listener, "applying", total, threads)
    place.gather()
    if not team.is_first:
        return RunResult()
    missing = [one.source.name for shard, one in tasks if not work.fits(work.output(shard, one))]
    if missing:
        raise OutputError(
            f"{len(missing)} tensors of {folder.parent} were not reported as written: {name_some(missing)}",
            "All processes need to see one output folder, and no other program may write there.",
        )
    broken = sorted(name for name, entry in journal.done.items() if not entry["finite"])
    if broken:
        larger = "lower the coefficient" if plan.base.scalings else "use --dtype float32"
        raise MismatchError(
            f"{len(broken)} tensors of the result are not finite: {name_some(broken)}",
            f"An input has infinities or NaN, or the output dtype overflows: check the inputs, or {larger}; "
            f"--scale '{broken[0]}=0' leaves that tensor as the model has it.",
        )
    check_unchanged(plan.states)
    _write_small_files(plan, folder)
    return _collect(plan, place)


def _write_small_files(plan: EditPlan, folder: Path) -> None:
    """Copy every file that travels with the model; the index and the dtype in the configuration follow the plan."""
    names = [name for name in plan.base.sidecars if str(name) != CARD_NAME]  # the output gets a card of its own
    copy_sidecars(plan.base.path, names, folder)
    config = plan.base.config
    if plan.edit.dtype is not None:
        config = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": plan.edit.dtype_name}
    if config != read_json(folder / "config.json"):
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if len(plan.shards) > 1 or plan.shards[0].name != WEIGHTS_NAME:
        weight_map = {tensor.source.name: shard.name for shard in plan.shards for tensor in shard.tensors}
        index = {"metadata": {"total_size": sum(t.nbytes for t in plan.tensors)}, "weight_map": weight_map}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Work:
    """What all workers share."""

    plan: EditPlan
    place: Workplace
    reader: TensorReader
    chunk: int
    files: dict[str, int]

    @cached_property
    def tensors(self) -> dict[str, TensorPlan]:
        """All tensors of the plan by name."""
        return {tensor.source.name: tensor for tensor in self.plan.tensors}

    @cached_property
    def shards(self) -> dict[str, str]:
        """The output file of each tensor."""
        return {tensor.source.name: shard.name for shard in self.plan.shards for tensor in shard.tensors}

    def output(self, shard: str, tensor: TensorPlan) -> TensorEntry:
        """Return a tensor of the output."""
        return TensorEntry(
            tensor.source.name, tensor.dtype, tensor.source.shape, self.place.path / shard, tensor.offset
        )

    def names(self, tensor: TensorPlan) -> set[str]:
        """Return the tensors that are written in one go: a weight, and its scales if they may change with it."""
        scaling = self.plan.base.scalings.get(tensor.source.name) if tensor.action == "requantised" else None
        return {tensor.source.name} | ({scaling.scale.name} if scaling else set())

    def fits(self, place: TensorEntry, entry: Mapping[str, Any] | None = None) -> bool:
        """Tell whether what is noted of a tensor of the output can have been noted by this plan."""
        entry = self.place.journal.done.get(place.name, {}) if entry is None else entry
        tensor, operands, error = self.tensors[place.name], entry.get("operands"), entry.get("error")
        return (
            isinstance(operands, list)
            and len(operands) == len(tensor.terms)
            and are_fingerprints(entry.get("base"), entry.get("output"), *operands)
            and (entry["base"] == entry["output"] or tensor.action != "copied")
            and isinstance(entry.get("finite"), bool)
            and (isinstance(error, float) and not error < 0 if tensor.action == "requantised" else error is None)
        )

    def do(self, task: tuple[str, TensorPlan], calculator: Calculator, stop: threading.Event) -> int:
        """Calculate or copy one tensor, write and record it; return its bytes."""
        self.place.team.check()
        shard, tensor = task
        writer = HashingWriter(self.files[shard], tensor.dtype, tensor.source.shape, tensor.offset)
        if tensor.action == "copied":
            for piece in self.reader.pieces(tensor.source):
                writer.append(piece)
            entry = {"base": writer.fingerprint(), "operands": [], "finite": True}
        elif tensor.action == "requantised":
            entry = self._requantise(tensor, calculator, writer, stop)
        else:
            entry = self._calculate(tensor, calculator, writer, stop)
        if stop.is_set():
            return 0
        self.place.journal.record(tensor.source.name, entry | {"output": writer.fingerprint()})
        return tensor.nbytes

    def _calculate(
        self, tensor: TensorPlan, calculator: Calculator, writer: HashingWriter, stop: threading.Event
    ) -> dict[str, object]:
        work, is_finite = EditedTensor(self.plan, tensor, self.reader, calculator), True
        for data, finite in work.pieces(self.chunk, stop):
            writer.append(data)
            is_finite = is_finite and finite
        return {} if stop.is_set() else work.fingerprints() | {"finite": is_finite}

    def _requantise(
        self, tensor: TensorPlan, calculator: Calculator, writer: HashingWriter, stop: threading.Event
    ) -> dict[str, object]:
        from taskarith.edit.float8 import requantise

        scaling = self.plan.base.scalings[tensor.source.name]
        shard, scale = self.shards[scaling.scale.name], self.tensors[scaling.scale.name]
        writers = writer, HashingWriter(self.files[shard], scale.dtype, scale.source.shape, scale.offset)
        what = calculation(self.plan, tensor)
        entry = requantise(tensor.source, what, scaling, calculator, self.reader, writers, self.chunk, stop)
        if not stop.is_set():
            check_terms(self.plan, tensor, entry["operands"])
            self.place.journal.record(scale.source.name, entry.pop("scale"))
        return entry


def _collect(plan: EditPlan, place: Workplace) -> RunResult:
    result = RunResult(operands=[{} for _ in plan.operands])
    for tensor in plan.tensors:
        entry = place.journal.done[tensor.source.name]
        result.base[tensor.source.name], result.output[tensor.source.name] = entry["base"], entry["output"]
        if "error" in entry:
            result.errors[tensor.source.name] = entry["error"]
        for term, fingerprint in zip(tensor.terms, entry["operands"], strict=True):
            result.operands[term.operand][term.delta] = fingerprint
    return result
