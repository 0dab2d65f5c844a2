"""The verb `extract`: write fine-tuned minus base as a task vector file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskarith.arithmetic.parallel import check_device
from taskarith.checkpoints.checkpoint import check_ending, is_adapter, open_checkpoint
from taskarith.checkpoints.dtypes import VECTOR_DTYPES, dtype_name
from taskarith.checkpoints.publish import check_target, publish
from taskarith.checkpoints.reader import file_states
from taskarith.checkpoints.resolve import resolve_model
from taskarith.errors import UsageError
from taskarith.progress import SILENT, Listener
from taskarith.spec import OperandRef
from taskarith.vectors.bases import ChosenBase
from taskarith.vectors.difference import AdapterSource, PairSource
from taskarith.vectors.extraction import Extraction, ExtractResult, write_dense, write_packed
from taskarith.vectors.forms import choose_form
from taskarith.vectors.open import choose_base, recorded_base
from taskarith.vectors.vocabulary import check_vocab

if TYPE_CHECKING:
    from taskarith.vectors.codecs.write import Form

__all__ = ["ExtractResult", "extract", "find_base", "prepare"]


def extract(
    base: str | None,
    finetuned: str,
    output: str | Path,
    *,
    dtype: str = "float32",
    device: str = "auto",
    exact: bool = False,
    top_k: float | None = None,
    top_k_per: str = "global",
    rows: float | None = None,
    bits: int | None = None,
    ignore_buffers: bool = False,
    vocab: str | None = None,
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> ExtractResult:
    """Write the task vector ``finetuned - base`` to a safetensors file.

    :param base: Folder, hub id or GGUF; None where the fine-tune records its base.
    :param finetuned: A fine-tuned model, or a LoRA folder (its merged deltas are written).
    :param output: The file to write, usually ``*.safetensors``.
    :param dtype: Dtype of the deltas: float32, float64 (exact), bfloat16 or float16.
    :param device: auto (the CPU), cpu or cuda[:N]; changes no bit.
    :param exact: Store what turns the base's bits into the fine-tune's; a coefficient of 1 restores these.
    :param top_k: Keep this share of the entries, those with the largest magnitudes.
    :param top_k_per: ``global``: of all entries together; ``tensor``: of each tensor's.
    :param rows: Keep this share of the rows of each matrix, those with the largest norms.
    :param bits: Store 8, 4 or 1 bits an entry and a float32 scale a row.
    :param ignore_buffers: Leave out buffers that only one of the two has, such as masks and rotary frequencies.
    :param vocab: Where vocabularies differ in size, ``intersection`` takes the rows that both models have, ``union``
        also those that only the fine-tune has, as it has them; None refuses that.
    :param overwrite: Replace an existing file.
    :param listener: Receives progress updates.
    :raises MismatchError: The two do not correspond, or a delta is not finite.
    :raises OutputError: The output exists or cannot be written.
    :raises UsageError: The dtype or device is unknown, or no base is given or recorded.
    """
    options: dict[str, Any] = {"dtype": dtype, "device": device, "ignore_buffers": ignore_buffers, "vocab": vocab}
    options |= {"exact": exact, "top_k": top_k, "top_k_per": top_k_per, "rows": rows, "bits": bits}
    origin, job, form = prepare(base, finetuned, output, listener, **options, overwrite=overwrite)
    plan, inputs = "" if form else job.fingerprint(), [job.before.path, job.tuned.path, *job.source.files]
    with publish(job.target, overwrite, is_folder=False, plan=plan, inputs=inputs) as workplace:
        result = write_packed(workplace, job, form, listener) if form else write_dense(workplace, job, listener)
        remarks = origin.check(result.base.tensors)
    return replace(result, path=job.target, remarks=remarks)


def prepare(
    base: str | None,
    finetuned: str,
    output: str | Path,
    listener: Listener,
    *,
    dtype: str = "float32",
    device: str = "auto",
    exact: bool = False,
    top_k: float | None = None,
    top_k_per: str = "global",
    rows: float | None = None,
    bits: int | None = None,
    ignore_buffers: bool = False,
    vocab: str | None = None,
    overwrite: bool = False,
) -> tuple[ChosenBase, Extraction, Form | None]:
    """Check all of an extraction that headers show; parameters and errors are those of ``extract``."""
    code = VECTOR_DTYPES[dtype_name(dtype)]
    form = choose_form(dtype=code, exact=exact, top_k=top_k, top_k_per=top_k_per, rows=rows, bits=bits)
    check_vocab(vocab)
    if vocab and form:
        raise UsageError(
            "vocabularies of different sizes are for deltas that are stored as they are",
            "Leave out --vocab, or --exact, --top-k, --rows and --bits.",
        )
    target, place = Path(output), check_device(device)
    check_ending(target)
    check_target(target, overwrite, is_folder=False, inputs=[base or "", finetuned])
    origin = find_base(base, finetuned, listener)
    tuned = resolve_model(finetuned, listener)
    before = origin.open()
    is_pair = not is_adapter(tuned.path)
    source = (
        PairSource(before, open_checkpoint(tuned.path), ignore_buffers=ignore_buffers, vocab=vocab)
        if is_pair
        else AdapterSource(before, tuned.path, listener)
    )
    job = Extraction(origin.resolved, tuned, before, source, code, file_states(source.files), target, place)
    return origin, job, form


def find_base(base: str | None, finetuned: str, listener: Listener) -> ChosenBase:
    """Return the base that is named, or that the fine-tune records.

    :raises UsageError: It records none.
    :raises MismatchError: What it records is not found.
    """
    hint = f"Name the base: taskarith extract BASE {finetuned} -o ..."
    chosen = choose_base(base, [OperandRef(finetuned, 1.0)], hint, listener)
    return replace(chosen, recorded=recorded_base(finetuned, listener, hint=hint))
