"""`taskarith extract`: fine-tuned minus base, as a task vector file."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskarith.cli.common import ConfigFile, DeviceOption, IgnoreBuffersFlag, JsonFlag, OverwriteFlag, QuietFlag
from taskarith.errors import UsageError, name_some

if TYPE_CHECKING:
    from taskarith.console import Console

__all__ = ["command"]


def command(
    models: Annotated[
        list[str],
        typer.Argument(metavar="[BASE] FINETUNED", help="Folders, hub ids or GGUF; FINETUNED may be a LoRA folder."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The vector file to write, *.safetensors; with --rank a folder.")
    ],
    dtype: Annotated[
        str, typer.Option("--dtype", help="Of the deltas: float32, float64 (exact), bfloat16 or float16.")
    ] = "float32",
    rank: Annotated[
        int | None, typer.Option("--rank", help="Write a LoRA folder: the best factors of this rank for each matrix.")
    ] = None,
    energy: Annotated[
        float | None, typer.Option("--energy", help="Likewise, of the least rank that keeps this share of each matrix.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Store changes of bits: a coefficient of 1 restores the fine-tune's bits.")
    ] = False,
    top_k: Annotated[
        float | None, typer.Option("--top-k", help="Keep this share of the entries, the largest, as in 0.05.")
    ] = None,
    top_k_per: Annotated[
        str, typer.Option("--top-k-per", help="Keep that share of all entries together (global) or of each tensor.")
    ] = "global",
    rows: Annotated[
        float | None, typer.Option("--rows", help="Keep this share of each matrix's rows, those of the largest norm.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option("--bits", help="Store 8, 4 or 1 bits an entry, and a scale for each row.")
    ] = None,
    ignore_buffers: IgnoreBuffersFlag = False,
    vocab: Annotated[
        str | None,
        typer.Option(
            "--vocab",
            metavar="intersection|union",
            help="Where vocabularies differ in size, take the rows that both have; union adds those of new tokens.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    overwrite: OverwriteFlag = False,
    config: ConfigFile = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write the task vector FINETUNED - BASE as a safetensors file bound to its base.

    BASE may be left out when the fine-tune was made by taskarith, which records it.

    Example: taskarith extract microsoft/phi-1_5 runs/forget -o forget.safetensors
    """
    del config
    from taskarith.console import Console
    from taskarith.vectors.extract import extract
    from taskarith.vectors.one_sided import ignored_remark

    if len(models) > 2:
        raise typer.BadParameter("give BASE and FINETUNED, or FINETUNED alone", param_hint="[BASE] FINETUNED")
    if os.environ.get("RANK", "0") != "0":
        return  # of several launched processes the first one extracts
    console = Console(as_json=as_json, quiet=quiet)
    base = models[0] if len(models) == 2 else None
    if rank is not None or energy is not None:
        if any(option is not None for option in (exact or None, top_k, rows, bits, vocab)):
            raise UsageError(
                "--rank and --energy are another form than --exact, --top-k, --rows and --bits, and take no --vocab",
                "Choose one of them.",
            )
        _low_rank(console, base, models[-1], output, rank, energy, dtype, device, ignore_buffers, overwrite)
        return
    result = extract(
        base,
        models[-1],
        output,
        dtype=dtype,
        device=device,
        exact=exact,
        top_k=top_k,
        top_k_per=top_k_per,
        rows=rows,
        bits=bits,
        ignore_buffers=ignore_buffers,
        vocab=vocab,
        overwrite=overwrite,
        listener=console,
    )
    console.close()
    for remark in result.remarks:
        console.note(f"note: {remark}")
    console.note(f"base {result.base}, fingerprint {result.base.fingerprint}")
    console.note(
        f"{result.tensors} tensors, {result.elements:,} elements, {result.moved / max(result.elements, 1):.1%} moved, "
        f"norm {result.norm:.4g}, {result.nbytes / 1e6:,.1f} MB"
    )
    for remark in ignored_remark(result.ignored):
        console.note(f"note: {remark}")
    if result.kind != "dense":
        console.note(f"{result.kind}: {8 * result.nbytes / max(result.elements, 1):.3g} bits an element")
    if result.loss is not None:
        loss = result.loss
        console.note(
            f"keeps {loss.kept:,} elements and {loss.energy:.2%} of the energy; relative error {loss.error:.3g}, "
            f"at worst {loss.worst_error:.3g} ({loss.worst})"
        )
    elif result.inexact is not None:
        share = result.inexact / max(result.elements, 1)
        remedy = "; --exact does" if result.inexact and dtype != "float64" else ""
        console.note(
            f"a coefficient of 1 does not reproduce {result.inexact:,} elements ({share:.2g}) to the bit{remedy}"
        )
    console.line(str(result.path))
    console.result(dataclasses.asdict(result) | {"path": str(result.path), "base": result.base.to_json()})


def _low_rank(
    console: Console,
    base: str | None,
    finetuned: str,
    output: Path,
    rank: int | None,
    energy: float | None,
    dtype: str,
    device: str,
    ignore_buffers: bool,
    overwrite: bool,
) -> None:
    from taskarith.vectors.low_rank import extract_low_rank

    result = extract_low_rank(
        base,
        finetuned,
        output,
        rank=rank,
        energy=energy,
        dtype=dtype,
        device=device,
        ignore_buffers=ignore_buffers,
        overwrite=overwrite,
        listener=console,
    )
    console.close()
    for remark in result.remarks:
        console.note(f"note: {remark}")
    console.note(f"base {result.base}, fingerprint {result.base.fingerprint}")
    for remark in result.remarks:
        console.note(f"note: {remark}")
    ranks = sorted(result.ranks.values())
    lowest = min(result.energies, key=lambda name: result.energies[name])
    console.note(
        f"{len(ranks)} matrices of rank {ranks[0]} to {ranks[-1]}, {result.energy:.2%} of the energy kept, "
        f"least {result.energies[lowest]:.2%} in {lowest}, {result.nbytes / 1e6:,.1f} MB"
    )
    if result.whole:
        console.note(f"{len(result.whole)} tensors are kept whole in the adapter: {name_some(result.whole)}")
    if result.rest:
        console.note(
            f"{len(result.rest)} tensors have no place in PEFT and are kept in rest.safetensors, which only taskarith "
            f"reads: {name_some(result.rest)}"
        )
    console.line(str(result.path))
    console.result(dataclasses.asdict(result) | {"path": str(result.path), "base": result.base.to_json()})
