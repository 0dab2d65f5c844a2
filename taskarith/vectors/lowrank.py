"""The verb `extract --rank`: the best low-rank approximation of a fine-tune's deltas, as a PEFT adapter folder."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taskarith.arithmetic.parallel import check_device, work_through
from taskarith.arithmetic.recipe import Calculator
from taskarith.arithmetic.tensors import TORCH_DTYPES
from taskarith.arithmetic.wide import encode
from taskarith.checkpoints.checkpoint import Checkpoint, open_checkpoint
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry, build_header
from taskarith.checkpoints.provenance import read_provenance, write_provenance
from taskarith.checkpoints.publish import check_target, publish
from taskarith.checkpoints.reader import TensorReader, check_unchanged, combine_fingerprints, file_states
from taskarith.checkpoints.resolve import ResolvedModel, resolve_model
from taskarith.checkpoints.writer import sized_files, write_at
from taskarith.errors import MismatchError, UsageError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.vectors.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, REST_WEIGHTS
from taskarith.vectors.extract import VECTOR_DTYPES, extract_tensors, find_base
from taskarith.vectors.folder import FolderLayout, Naming, adapter_config, lay_out
from taskarith.vectors.form import BaseRecord
from taskarith.vectors.subtract import PairSource

__all__ = ["LowRankResult", "extract_low_rank"]

_BLOCK = 1 << 20
"""Elements that are read at a time."""


@dataclass(frozen=True)
class LowRankResult:
    """What was extracted.

    :param path: The adapter folder.
    :param base: The base, as recorded in it.
    :param ranks: Rank of each tensor that has factors.
    :param energies: Share of the sum of squares of its delta that they keep.
    :param energy: Share of the sum of squares of all deltas that the folder keeps.
    :param whole: Tensors that the adapter holds as they are, and PEFT reads.
    :param rest: Tensors in ``rest.safetensors``, which PEFT does not read.
    :param nbytes: Size of the weights.
    """

    path: Path
    base: BaseRecord
    ranks: Mapping[str, int]
    energies: Mapping[str, float]
    energy: float
    whole: tuple[str, ...]
    rest: tuple[str, ...]
    nbytes: int


def extract_low_rank(
    base: str | None,
    finetuned: str,
    output: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str = "float32",
    device: str = "auto",
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> LowRankResult:
    """Write the best approximation of ``finetuned - base`` by factors of low rank, as a folder that PEFT loads.

    A worker holds one matrix in float64 (a wide one; of a tall one its Gram matrix). What has no factors, or would be
    no larger as it is, is kept exactly.

    :param base: Folder, hub id or GGUF; None where the fine-tune records its base.
    :param finetuned: A fine-tuned model.
    :param output: The folder to write.
    :param rank: The rank of every matrix, or None.
    :param energy: Share of the sum of squares of each matrix that is to be kept, above 0 and at most 1, or None.
    :param dtype: Dtype of the factors, and of the deltas in ``rest.safetensors``.
    :param device: auto (the CPU), cpu or cuda[:N]: where the eigenvectors are found.
    :param overwrite: Replace an existing folder.
    :param listener: Told about progress.
    :raises MismatchError: The two do not correspond, a delta is not finite, or no matrix moved.
    :raises OutputError: The output exists or cannot be written.
    :raises UsageError: An option is wrong, or no base is given or recorded.
    """
    target, place = Path(output), _check(Path(output), rank, energy, dtype, device)
    check_target(target, overwrite)
    resolved, tuned = find_base(base, finetuned, listener), resolve_model(finetuned, listener)
    if (tuned.path / ADAPTER_CONFIG).exists():
        raise UsageError(f"{finetuned} is an adapter already", "Give it to apply as it is, or extract it without rank.")
    before = open_checkpoint(resolved.path)
    work = _Work(before, open_checkpoint(tuned.path), Naming(before), (rank, energy), VECTOR_DTYPES[dtype], place)
    states = file_states(work.source.files)
    with publish(target, overwrite, is_folder=True) as workplace:
        scratch = workplace.path.with_name("factors")
        scratch.mkdir(exist_ok=True)
        work.measure(scratch, listener)
        record = work.record(resolved)
        layout = work.lay_out()
        config = adapter_config(work.naming, before, record.name, record.revision, work.ranks, layout)
        (workplace.path / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        nbytes = work.write(workplace.path / ADAPTER_WEIGHTS, scratch, layout)
        if layout.rest:
            source = work.source.restricted(layout.rest, work.prints)
            rest = extract_tensors(resolved, tuned, before, source, workplace.path / REST_WEIGHTS, dtype, place)
            nbytes += rest.nbytes
        check_unchanged(states)
        result = _result(target, record, work, layout, nbytes)
        write_provenance(workplace.path, _record(result, tuned, work))
    return result


def _check(target: Path, rank: int | None, energy: float | None, dtype: str, device: str) -> str:
    if (rank is None) == (energy is None):
        raise UsageError("give one of --rank and --energy", "As in: taskarith extract BASE FINETUNED -o DIR --rank 16")
    if (rank is not None and rank < 1) or (energy is not None and not 0 < energy <= 1):
        raise UsageError("the rank is at least 1, the energy above 0 and at most 1", "As in --rank 16 or --energy 0.95")
    if dtype not in VECTOR_DTYPES:
        raise UsageError(f"unknown dtype '{dtype}'", f"Choose one of {', '.join(VECTOR_DTYPES)}.")
    if target.suffix == ".safetensors":
        raise UsageError(
            f"a low-rank vector is a folder, and '{target}' names a file", f"Name a folder: -o {target.with_suffix('')}"
        )
    return check_device(device)


class _Work:
    """The deltas of a fine-tune while they are factored."""

    def __init__(
        self,
        base: Checkpoint,
        tuned: Checkpoint,
        naming: Naming,
        want: tuple[int | None, float | None],
        dtype: str,
        device: str,
    ) -> None:
        self.naming, self.source = naming, PairSource(base, tuned)
        self.prints: dict[str, dict[str, str]] = dict(self.source.rest)
        self.ranks: dict[str, int] = {}
        self.moved: dict[str, tuple[float, float]] = {}
        self._base, self._tuned, self._want, self._dtype, self._device = base, tuned, want, dtype, device
        self._broken: list[str] = []

    def measure(self, scratch: Path, listener: Listener) -> None:
        """Factor all matrices that move into files of their own, the largest first, and note what else moves."""
        numbers = {name: index for index, name in enumerate(self._base.tensors)}
        with TensorReader() as reader:

            def do(entry: TensorEntry, calculator: Calculator, stop: threading.Event) -> int:
                del calculator
                if not stop.is_set():
                    self._measure(entry, reader, scratch / str(numbers[entry.name]))
                return entry.elements

            tasks = sorted((self._base.tensors[name] for name in self.source.shapes), key=lambda entry: -entry.elements)
            device = "torch" if self._device == "cpu" else self._device
            work_through(tasks, do, listener, "factoring", sum(task.elements for task in tasks), device=device, chunk=1)
        if self._broken:
            raise MismatchError(
                f"{len(self._broken)} deltas are not finite: {name_some(sorted(self._broken))}",
                "A model has infinities or NaN there: check it.",
            )
        self.ranks = {name: self.ranks[name] for name in self._base.tensors if name in self.ranks}
        if not self.ranks:
            raise MismatchError(
                "no matrix has a delta that is smaller as factors",
                "Lower the rank, or write a task vector file: -o forget.safetensors",
            )

    def _measure(self, entry: TensorEntry, reader: TensorReader, scratch: Path) -> None:
        from taskarith.vectors.factoring import best_fit

        name, pair = entry.name, _Pair(entry, self._tuned.tensors[entry.name], reader)
        self.prints[name] = {"base": reader.fingerprint(entry), "finetuned": reader.fingerprint(pair.finetuned)}
        if len(set(self.prints[name].values())) == 1:
            return
        if not self.naming.takes_factors(name):
            fit, total = None, pair.squares()
        else:
            fit = best_fit(pair.rows, (entry.shape[0], entry.shape[1]), *self._want, self._device)
            total = math.nan if fit is None else fit.total
        if not math.isfinite(total):
            self._broken.append(name)
        elif fit is not None and 0 < fit.rank * sum(entry.shape) < entry.elements:
            b, a = (fit.right.T, fit.left.T) if self.naming.is_transposed(name) else (fit.left, fit.right)
            for role, side in (("A", a), ("B", b)):
                data = encode(side.contiguous().numpy().ravel(), self._dtype)
                scratch.with_suffix(f".{role}").write_bytes(data)
            self.ranks[name], self.moved[name] = fit.rank, (fit.kept, total)
        elif total or entry.dtype == pair.finetuned.dtype:  # if not: the same numbers in another dtype
            self.moved[name] = total, total

    def lay_out(self) -> FolderLayout:
        """Decide where the moved tensors go."""
        return lay_out(self.naming, self._base, self.moved, self.ranks)

    def record(self, resolved: ResolvedModel) -> BaseRecord:
        """Return the base, by name and fingerprint."""
        prints = {name: sides["base"] for name, sides in self.prints.items() if "base" in sides}
        return BaseRecord(resolved.recorded_name, resolved.revision, combine_fingerprints(prints), prints)

    def finetuned(self) -> str:
        """Return the fingerprint of the fine-tune."""
        return combine_fingerprints({n: sides["finetuned"] for n, sides in self.prints.items() if "finetuned" in sides})

    def write(self, path: Path, scratch: Path, layout: FolderLayout) -> int:
        """Put the adapter file together and return its size."""
        sources: dict[str, Path | TensorEntry] = {name: self._tuned.tensors[one] for name, one in layout.whole.items()}
        described = {
            name: (entry.dtype, entry.shape) for name, entry in sources.items() if isinstance(entry, TensorEntry)
        }
        numbers = {name: index for index, name in enumerate(self._base.tensors)}
        for tensor, rank in self.ranks.items():
            rows, columns = self._base.tensors[tensor].shape
            outputs, inputs = (columns, rows) if self.naming.is_transposed(tensor) else (rows, columns)
            for role, name, shape in zip(
                "AB", self.naming.factor_names(tensor), ((rank, inputs), (outputs, rank)), strict=True
            ):
                sources[name] = scratch / f"{numbers[tensor]}.{role}"
                described[name] = self._dtype, shape
        header, offsets = build_header([(name, *described[name]) for name in sorted(described)], {"format": "pt"})
        size = len(header) + sum(math.prod(shape) * ITEM_SIZES[dtype] for dtype, shape in described.values())
        with TensorReader() as reader, sized_files({path: size}) as files:
            write_at(files[path], header, 0)
            for name, source in sources.items():
                position = offsets[name]
                for piece in reader.pieces(source) if isinstance(source, TensorEntry) else [source.read_bytes()]:
                    write_at(files[path], piece, position)
                    position += len(piece)
        return size


@dataclass(frozen=True)
class _Pair:
    """A tensor of both sides, and the difference of some of its rows."""

    base: TensorEntry
    finetuned: TensorEntry
    reader: TensorReader

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows of the delta in float64."""
        columns = math.prod(self.base.shape[1:])
        if not columns:
            return torch.zeros(stop - start, 0, dtype=torch.float64)
        before, after = (
            torch.frombuffer(
                self.reader.read(one, *(row * columns * ITEM_SIZES[one.dtype] for row in (start, stop))),
                dtype=TORCH_DTYPES[one.dtype],
            )
            for one in (self.base, self.finetuned)
        )
        return after.to(torch.float64).sub_(before).reshape(stop - start, columns)

    def squares(self) -> float:
        """Return the sum of squares of the delta; not finite if an element is not."""
        count = self.base.shape[0] if self.base.shape else 1
        step = max(1, _BLOCK // max(math.prod(self.base.shape[1:]), 1))
        spans = ((at, min(at + step, count)) for at in range(0, count, step))
        return math.fsum(float(self.rows(*span).square_().sum()) for span in spans)


def _result(target: Path, base: BaseRecord, work: _Work, layout: FolderLayout, nbytes: int) -> LowRankResult:
    kept, total = (sum(values) for values in zip(*work.moved.values(), strict=True))
    energies = {name: work.moved[name][0] / work.moved[name][1] for name in work.ranks}
    whole = tuple(sorted(set(layout.whole.values())))
    return LowRankResult(target, base, work.ranks, energies, kept / total, whole, tuple(layout.rest), nbytes)


def _record(result: LowRankResult, tuned: ResolvedModel, work: _Work) -> dict[str, Any]:
    base = result.base
    return {
        "kind": "lowrank",
        "base": {"name": base.name, "revision": base.revision, "fingerprint": base.fingerprint},
        "finetuned": {
            "name": tuned.recorded_name,
            "revision": tuned.revision,
            "fingerprint": work.finetuned(),
            "training": read_provenance(tuned.path),
        },
        "energy": result.energy,
        "tensors": {name: {"rank": rank, "energy": result.energies[name]} for name, rank in result.ranks.items()},
        "whole": result.whole,
        "rest": result.rest,
    }
