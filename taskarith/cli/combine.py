"""`taskarith combine`: add and subtract task vectors into a new one."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from taskarith.cli.options import OutputFileOption, OutputOptions, OverwriteFlag, VectorDtypeOption

__all__ = ["command"]


def command(
    expression: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPRESSION", help="Vectors with coefficients and signs, such as 'V1:0.6 - V2@@BASE:0.4'."
        ),
    ],
    *,
    output_file: OutputFileOption,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Base of the vectors.", show_default="the one they record")
    ] = None,
    dtype: VectorDtypeOption = "float32",
    rank: Annotated[
        int | None, typer.Option(help="Maximum rank of a LoRA output folder.", show_default="the sum of all ranks")
    ] = None,
    overwrite: OverwriteFlag = False,
    output: OutputOptions,
) -> None:
    """Write a sum of task vectors as a new vector.

    Vectors may be of any kind; put spaces around every sign.

    Example: taskarith combine 'saga.safetensors:0.6 - manual.safetensors:0.4' -o mixed.safetensors
    """
    from taskarith.edit.combine import combine

    with output.console() as console:
        result = combine(
            " ".join(expression), output_file, base=base, dtype=dtype, rank=rank, overwrite=overwrite, listener=console
        )
    for remark in result.remarks:
        console.note(f"note: {remark}")
    console.note(f"base {result.base}, fingerprint {result.base.fingerprint}")
    console.note(f"{result.tensors} tensors, {result.nbytes / 1e6:,.1f} MB")
    if result.kind == "lora":
        console.note(f"adapter of rank {result.rank}, keeps {result.energy:.2%} of the energy")
    console.line(str(result.path))
    console.next("apply", result.base, "--add", result.path, "--alpha", "1.0")
    console.result(dataclasses.asdict(result) | {"path": str(result.path), "base": result.base.to_json()})
