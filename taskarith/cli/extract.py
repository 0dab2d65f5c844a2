"""`taskarith extract`: write fine-tuned minus base as a task vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskarith.cli.inputs import check_inputs
from taskarith.cli.options import (
    DeviceOption,
    DryRunFlag,
    IgnoreBuffersFlag,
    OutputFileOption,
    OutputOptions,
    OverwriteFlag,
    VectorDtypeOption,
    VocabOption,
    under,
)
from taskarith.cli.output import show_cost
from taskarith.errors import UsageError, name_some

if TYPE_CHECKING:
    from taskarith.console import Console
    from taskarith.vectors.extract import ExtractResult
    from taskarith.vectors.forecast import ExtractForecast
    from taskarith.vectors.low_rank import LowRankResult

__all__ = ["command"]

_low_rank, _sparse = under("Low rank"), under("Sparse and quantised")


def command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[BASE] FINETUNED",
            help="Model folders, hub ids or GGUF files; FINETUNED may be a LoRA folder.",
        ),
    ],
    *,
    output_file: OutputFileOption,
    dtype: VectorDtypeOption = "float32",
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Store deltas without loss: a coefficient of 1 restores every bit of the fine-tune."
        ),
    ] = False,
    rank: Annotated[
        int | None, _low_rank(help="Write a LoRA folder with the best factors of this rank for each matrix.")
    ] = None,
    energy: Annotated[
        float | None,
        _low_rank(help="Write a LoRA folder with the smallest ranks that keep this share of each matrix's energy."),
    ] = None,
    top_k: Annotated[float | None, _sparse(help="Keep this share of the entries, largest first, such as 0.05.")] = None,
    top_k_per: Annotated[
        str, _sparse(help="Apply --top-k to all entries together (global) or to each tensor.")
    ] = "global",
    rows: Annotated[float | None, _sparse(help="Keep this share of each matrix's rows, largest norm first.")] = None,
    bits: Annotated[int | None, _sparse(help="Store 8, 4 or 1 bits per entry, and one scale per row.")] = None,
    ignore_buffers: IgnoreBuffersFlag = False,
    vocab: VocabOption = None,
    device: DeviceOption = "auto",
    overwrite: OverwriteFlag = False,
    dry_run: DryRunFlag = False,
    output: OutputOptions,
) -> None:
    """Write the task vector FINETUNED - BASE, bound to its base.

    BASE may be left out when the fine-tune was made by taskarith, which records it.

    Example: taskarith extract microsoft/phi-1_5 runs/forget -o forget.safetensors
    """
    if len(models) > 2:
        raise typer.BadParameter("give BASE and FINETUNED, or FINETUNED alone", param_hint="[BASE] FINETUNED")
    base, finetuned = models[0] if len(models) == 2 else None, models[-1]
    is_low_rank = rank is not None or energy is not None
    packing = {"exact": exact, "top_k": top_k, "top_k_per": top_k_per, "rows": rows, "bits": bits, "vocab": vocab}
    if is_low_rank and any(option is not None for option in (exact or None, top_k, rows, bits, vocab)):
        raise UsageError(
            "--rank and --energy cannot be combined with --exact, --top-k, --rows, --bits or --vocab",
            "Choose one of them.",
        )
    check_inputs([base, finetuned])
    options: dict[str, Any] = {"dtype": dtype, "device": device, "ignore_buffers": ignore_buffers}
    options |= {"overwrite": overwrite, **({"rank": rank, "energy": energy} if is_low_rank else packing)}
    with output.console() as console:
        if dry_run:
            from taskarith.vectors.forecast import forecast_extract

            _show_forecast(forecast_extract(base, finetuned, output_file, **options, listener=console), console)
        elif is_low_rank:
            from taskarith.vectors.low_rank import extract_low_rank

            factors = extract_low_rank(base, finetuned, output_file, **options, listener=console)
            _show(factors, _low_rank_lines(factors), console)
        else:
            from taskarith.vectors.extract import extract

            result = extract(base, finetuned, output_file, **options, listener=console)
            _show(result, _lines(result, dtype), console)


def _show_forecast(found: ExtractForecast, console: Console) -> None:
    is_dense = found.kind == "dense"
    console.note(
        f"{found.kind}: {found.tensors} tensors, {found.elements:,} elements; read {found.read_bytes / 1e6:,.1f} MB, "
        f"would write {'' if is_dense else 'at most '}{found.write_bytes / 1e6:,.1f} MB"
    )
    show_cost(found.cost, console, disk_only=not is_dense)
    console.line(str(found.path))
    console.result(found.to_json() | {"dry_run": True})


def _show(result: ExtractResult | LowRankResult, lines: Iterable[str], console: Console) -> None:
    for remark in result.remarks:
        console.note(f"note: {remark}")
    console.note(f"base {result.base}, fingerprint {result.base.fingerprint}")
    for line in lines:
        console.note(line)
    console.line(str(result.path))
    console.next("apply", result.base, "--negate", result.path, "--alpha", "1.0")
    console.result(result.to_json())


def _lines(result: ExtractResult, dtype: str) -> Iterator[str]:
    from taskarith.vectors.one_sided import ignored_remark

    if not result.path.suffix:
        yield f"note: {result.path} is a safetensors file; most programs expect that ending"
    yield (
        f"{result.tensors} tensors, {result.elements:,} elements, {result.moved / max(result.elements, 1):.1%} moved, "
        f"norm {result.norm:.4g}, {result.nbytes / 1e6:,.1f} MB"
    )
    yield from (f"note: {remark}" for remark in ignored_remark(result.ignored))
    if result.kind != "dense":
        yield f"{result.kind}: {8 * result.nbytes / max(result.elements, 1):.3g} bits per element"
    if result.loss is not None:
        loss = result.loss
        yield (
            f"keeps {loss.kept:,} elements and {loss.energy:.2%} of the energy; relative error {loss.error:.3g}, "
            f"at worst {loss.worst_error:.3g} ({loss.worst})"
        )
    elif result.inexact == 0:
        yield "every element is bit-exact at coefficient 1"
    elif result.inexact is not None:
        share = result.inexact / max(result.elements, 1)
        remedy = "; use --exact" if dtype != "float64" else ""
        yield f"{result.inexact:,} elements ({share:.2g}) are not bit-exact at coefficient 1{remedy}"


def _low_rank_lines(result: LowRankResult) -> Iterator[str]:
    ranks = sorted(result.ranks.values())
    lowest = min(result.energies, key=lambda name: result.energies[name])
    yield (
        f"{len(ranks)} matrices of rank {ranks[0]} to {ranks[-1]}, {result.energy:.2%} of the energy kept, "
        f"lowest {result.energies[lowest]:.2%} in {lowest}, {result.nbytes / 1e6:,.1f} MB"
    )
    if result.whole:
        yield f"{len(result.whole)} tensors are stored whole in the adapter: {name_some(result.whole)}"
    if result.rest:
        yield (
            f"{len(result.rest)} tensors cannot be part of a PEFT adapter and are in rest.safetensors, which only "
            f"taskarith reads: {name_some(result.rest)}"
        )
