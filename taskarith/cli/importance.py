"""The command `importance`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.inputs import check_inputs
from taskarith.cli.options import (
    ChatTemplateFlag,
    DeviceMapOption,
    DeviceOption,
    ModelArgument,
    OutputOptions,
    OverwriteFlag,
    SystemPromptOption,
    TrustFlag,
)

__all__ = ["command"]


def command(
    model: ModelArgument,
    *,
    output_file: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The .safetensors file to write.")
    ],
    forget: Annotated[str, typer.Option(metavar="SPEC", help="Text or data set to forget.")],
    retain: Annotated[str, typer.Option(metavar="SPEC", help="Text or data set to retain.")],
    kind: Annotated[
        str, typer.Option(help="gradient (its magnitude) or fisher (mean square over samples).")
    ] = "gradient",
    block_size: Annotated[int, typer.Option(help="Tokens per sample of plain text.")] = 256,
    apply_chat_template: ChatTemplateFlag = False,
    system_prompt: SystemPromptOption = "",
    overwrite: OverwriteFlag = False,
    output: OutputOptions,
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    trust_remote_code: TrustFlag = False,
) -> None:
    """Weight parameters by importance for forgetting (--method perta).

    Example: taskarith importance tuned --forget forget.txt --retain retain.txt -o weights.safetensors
    """
    check_inputs([model], [forget, retain])
    from taskarith.relations.importance import importance

    with output.console() as console:
        result = importance(
            model,
            forget,
            retain,
            output_file,
            kind=kind,
            block_size=block_size,
            apply_chat_template=apply_chat_template,
            system_prompt=system_prompt,
            device=device,
            device_map=device_map,
            overwrite=overwrite,
            launched=True,
            trust_remote_code=trust_remote_code,
            listener=console,
        )
    console.note(
        f"weights of {result.tensors} tensors, mean {result.mean:.3f}, from {result.forget_samples} samples to forget "
        f"and {result.retain_samples} to retain"
    )
    console.line(str(result.path))
    console.next("apply", model, "--negate", "VECTOR", "--weights", result.path)
    console.result(dataclasses.asdict(result) | {"path": str(result.path)})
