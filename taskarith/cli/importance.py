"""The command `importance`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.common import ConfigFile, DeviceOption, JsonFlag, OverwriteFlag, QuietFlag, TrustFlag

__all__ = ["command"]


def command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model that is to be edited: folder, hub id or GGUF.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .safetensors file to write.")],
    forget: Annotated[str, typer.Option("--forget", metavar="SPEC", help="Text or data set that is to be forgotten.")],
    retain: Annotated[str, typer.Option("--retain", metavar="SPEC", help="Text or data set that is to be kept.")],
    kind: Annotated[
        str, typer.Option("--kind", help="gradient (its magnitude) or fisher (mean square over samples).")
    ] = "gradient",
    block_size: Annotated[int, typer.Option(help="Tokens of a sample of plain text.")] = 256,
    device: DeviceOption = "auto",
    overwrite: OverwriteFlag = False,
    config: ConfigFile = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    trust_remote_code: TrustFlag = False,
) -> None:
    """Weigh each parameter by how much it matters for forgetting against retaining, for apply --method perta.

    Example: taskarith importance tuned --forget forget.txt --retain retain.txt -o weights.safetensors
    """
    del config
    from taskarith.console import Console
    from taskarith.relations.importance import importance

    console = Console(as_json=as_json, quiet=quiet)
    try:
        result = importance(
            model,
            forget,
            retain,
            output,
            kind=kind,
            block_size=block_size,
            device=device,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            listener=console,
        )
    finally:
        console.close()
    console.note(
        f"weights of {result.tensors} tensors, mean {result.mean:.3f}, from {result.forget_samples} samples to forget "
        f"and {result.retain_samples} to retain"
    )
    console.line(str(result.path))
    console.result(dataclasses.asdict(result) | {"path": str(result.path)})
