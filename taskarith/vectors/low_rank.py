"""The verb `extract --rank`: the best low-rank approximation of a fine-tune's deltas, as a PEFT adapter folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from taskarith.arithmetic.parallel import check_device
from taskarith.cards.card import write_card
from taskarith.checkpoints.checkpoint import is_adapter, open_checkpoint
from taskarith.checkpoints.dtypes import VECTOR_DTYPES, dtype_name
from taskarith.checkpoints.provenance import read_provenance, write_provenance
from taskarith.checkpoints.publish import check_target, publish
from taskarith.checkpoints.reader import check_unchanged, file_states
from taskarith.checkpoints.resolve import ResolvedModel, resolve_model
from taskarith.errors import UsageError
from taskarith.progress import SILENT, Listener
from taskarith.tidy import Tabular
from taskarith.vectors.bases import ChosenBase
from taskarith.vectors.difference import PairSource
from taskarith.vectors.extract import find_base
from taskarith.vectors.extraction import Extraction, write_dense
from taskarith.vectors.factoring import Factoring
from taskarith.vectors.lora.adapter import REST_WEIGHTS
from taskarith.vectors.lora.layout import FolderLayout
from taskarith.vectors.one_sided import ignored_remark
from taskarith.vectors.vector import BaseRecord

__all__ = ["LowRankResult", "extract_low_rank", "prepare_low_rank"]


@dataclass(frozen=True, repr=False)
class LowRankResult(Tabular):
    """What was extracted.

    :param path: The adapter folder.
    :param base: The base, as recorded in it.
    :param ranks: Rank of each tensor that has factors.
    :param energies: Share of the sum of squares of its delta that they keep.
    :param energy: Share of the sum of squares of all deltas that the folder keeps.
    :param whole: Tensors that the adapter holds as they are, and PEFT reads.
    :param rest: Tensors in ``rest.safetensors``, which PEFT does not read.
    :param nbytes: Size of the weights.
    :param remarks: What the user should know: another base than the fine-tune records, names that had to be guessed,
        buffers that were left out.
    """

    path: Path
    base: BaseRecord
    ranks: Mapping[str, int]
    energies: Mapping[str, float]
    energy: float
    whole: tuple[str, ...]
    rest: tuple[str, ...]
    nbytes: int
    remarks: tuple[str, ...] = ()

    def _brief(self) -> dict[str, object]:
        counts = {"factored": len(self.ranks), "whole": len(self.whole), "rest": len(self.rest)}
        return {"path": self.path, "base": str(self.base), "energy": self.energy, **counts, "nbytes": self.nbytes}

    def _rows(self) -> list[dict[str, Any]]:
        """Return a row for each tensor that has factors."""
        return [{"tensor": name, "rank": rank, "energy": self.energies[name]} for name, rank in self.ranks.items()]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"path": str(self.path), "base": self.base.to_json()}


def extract_low_rank(
    base: str | None,
    finetuned: str,
    output: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str = "float32",
    device: str = "auto",
    ignore_buffers: bool = False,
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
    :param device: auto (a GPU, if there is one), cpu or cuda[:N]: where the eigenvectors are found. It may change the
        last bits.
    :param ignore_buffers: Leave out buffers that only one of the two has.
    :param overwrite: Replace an existing folder.
    :param listener: Receives progress updates.
    :raises MismatchError: The two do not correspond, a delta is not finite, or no matrix moved.
    :raises OutputError: The output exists or cannot be written.
    :raises UsageError: An option is wrong, or no base is given or recorded.
    """
    options: dict[str, Any] = {"rank": rank, "energy": energy, "dtype": dtype, "device": device}
    options |= {"ignore_buffers": ignore_buffers, "overwrite": overwrite}
    origin, job, work = prepare_low_rank(base, finetuned, output, listener, **options)
    target, tuned, before, source, place = job.target, job.tuned, job.before, job.source, job.device
    with publish(target, overwrite, is_folder=True, inputs=[before.path, tuned.path, *source.files]) as workplace:
        scratch = workplace.path.with_name("factors")
        scratch.mkdir(exist_ok=True)
        work.measure(scratch, listener)
        record = work.record(job.base)
        strangers = origin.check(record.tensors)
        layout = work.lay_out()
        work.keep(layout)
        nbytes = work.write(workplace.path, record, scratch, layout)
        if layout.rest:
            part = work.source.restricted(layout.rest, work.fingerprints)
            rest = replace(job, source=part, target=target / REST_WEIGHTS)
            with publish(workplace.path / REST_WEIGHTS, is_folder=False) as file:
                nbytes += write_dense(file, rest, SILENT).nbytes
        check_unchanged(job.states)
        result = _result(target, record, work, layout, nbytes)
        described = _record(result, tuned, work) | ({} if place == "cpu" else {"device": place.partition(":")[0]})
        write_card(workplace.path, described, before.path)
        write_provenance(workplace.path, described, target)
    return replace(result, remarks=(*strangers, *result.remarks))


def prepare_low_rank(
    base: str | None,
    finetuned: str,
    output: str | Path,
    listener: Listener,
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str = "float32",
    device: str = "auto",
    ignore_buffers: bool = False,
    overwrite: bool = False,
) -> tuple[ChosenBase, Extraction, Factoring]:
    """Check all of it that headers show; parameters and errors are those of ``extract_low_rank``."""
    target, place, code = Path(output), _check(Path(output), rank, energy, device), VECTOR_DTYPES[dtype_name(dtype)]
    check_target(target, overwrite, is_folder=True, inputs=[base or "", finetuned])
    origin, tuned = find_base(base, finetuned, listener), resolve_model(finetuned, listener)
    if device == "auto" and place != "cpu":
        listener.note("matrices are decomposed on the GPU; --device cpu does not")
    if is_adapter(tuned.path):
        raise UsageError(f"{finetuned} is an adapter already", "Give it to apply as it is, or extract it without rank.")
    before, after = origin.open(), open_checkpoint(tuned.path)
    source = PairSource(before, after, ignore_buffers=ignore_buffers)
    job = Extraction(origin.resolved, tuned, before, source, code, file_states(source.files), target, place)
    return origin, job, Factoring(before, after, source, (rank, energy), code, place, listener)


def _check(target: Path, rank: int | None, energy: float | None, device: str) -> str:
    if (rank is None) == (energy is None):
        raise UsageError("give one of --rank and --energy", "As in: taskarith extract BASE FINETUNED -o DIR --rank 16")
    if (rank is not None and rank < 1) or (energy is not None and not 0 < energy <= 1):
        raise UsageError("the rank is at least 1, the energy above 0 and at most 1", "As in --rank 16 or --energy 0.95")
    if target.suffix == ".safetensors":
        raise UsageError(
            f"a low-rank vector is a folder, and '{target}' names a file", f"Name a folder: -o {target.with_suffix('')}"
        )
    return check_device(device, decomposes=True)


def _result(target: Path, base: BaseRecord, work: Factoring, layout: FolderLayout, nbytes: int) -> LowRankResult:
    kept, total = (sum(values) for values in zip(*work.energies.values(), strict=True))
    shares = {name: work.energies[name][0] / work.energies[name][1] for name in work.ranks}
    return LowRankResult(
        target,
        base,
        {work.label(name): rank for name, rank in work.ranks.items()},
        {work.label(name): share for name, share in shares.items()},
        kept / total,
        tuple(sorted({work.label(parameter) for _, parameter in layout.whole_names()})),
        layout.rest,
        nbytes,
        (*filter(None, [work.architecture.remark]), *ignored_remark(work.source.ignored)),
    )


def _record(result: LowRankResult, tuned: ResolvedModel, work: Factoring) -> dict[str, Any]:
    return {
        "kind": "lowrank",
        "base": result.base.to_json(),
        "finetuned": {
            **BaseRecord(tuned.recorded_name, tuned.revision, work.finetuned()).to_json(),
            "training": read_provenance(tuned.path),
        },
        "energy": result.energy,
        "tensors": {name: {"rank": rank, "energy": result.energies[name]} for name, rank in result.ranks.items()},
        "whole": result.whole,
        "rest": result.rest,
        **({"ignored_buffers": work.source.ignored} if work.source.ignored else {}),
    }
