"""`taskarith combine`: add and subtract task vectors into a new one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.common import ConfigFile, JsonFlag, OverwriteFlag, QuietFlag

__all__ = ["command"]


def command(
    expression: Annotated[
        list[str],
        typer.Argument(metavar="EXPRESSION", help="Vectors with coefficients and signs, as 'V1:0.6 - V2@@BASE:0.4'."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The vector file to write, *.safetensors; of adapters a folder too.")
    ],
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="By default the one that a vector records.")
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="Of the deltas: float32, float64, bfloat16 or float16.")
    ] = "float32",
    rank: Annotated[
        int | None, typer.Option("--rank", help="Of an adapter folder, at most; by default the sum of all ranks.")
    ] = None,
    overwrite: OverwriteFlag = False,
    config: ConfigFile = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a linear combination of task vectors of any kind as a new vector; blanks stand around every sign.

    Example: taskarith combine 'saga.safetensors:0.6 - manual.safetensors:0.4' -o mixed.safetensors
    """
    del config
    from taskarith.console import Console
    from taskarith.edit.combine import combine

    console = Console(as_json=as_json, quiet=quiet)
    result = combine(
        " ".join(expression), output, base=base, dtype=dtype, rank=rank, overwrite=overwrite, listener=console
    )
    console.close()
    for remark in result.remarks:
        console.note(f"note: {remark}")
    console.note(f"base {result.base}, fingerprint {result.base.fingerprint}")
    console.note(f"{result.tensors} tensors, {result.nbytes / 1e6:,.1f} MB")
    if result.kind == "lora":
        console.note(f"an adapter of rank {result.rank}, with {result.energy:.2%} of the energy")
    console.line(str(result.path))
    console.result(dataclasses.asdict(result) | {"path": str(result.path), "base": result.base.to_json()})
