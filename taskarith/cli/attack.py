"""The command `attack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.common import (
    BatchSizeOption,
    ChatTemplateFlag,
    ConfigFile,
    DeviceOption,
    JsonFlag,
    OverwriteFlag,
    QuietFlag,
    SeedOption,
    SystemPromptOption,
    TrustFlag,
    parse_batch_size,
)
from taskarith.errors import UsageError

__all__ = ["command"]

_RELEARN, _OTHERS, _MEASURE, _RUN = "Relearn", "Quantise, rephrase, prefix", "Measure", "Run"


def command(
    model: Annotated[
        str, typer.Argument(metavar="EDITED", help="The model that forgot: folder, hub id or GGUF.", show_default=False)
    ],
    forget: Annotated[
        str, typer.Option("--forget", metavar="SPEC", help="The text that it forgot.", show_default=False)
    ],
    before: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model before the edit: what can come back.", show_default="none"),
    ] = None,
    retain: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="One that never knew the text, retrained without it or the base: it is attacked likewise.",
            show_default="none",
        ),
    ] = None,
    attacks: Annotated[str, typer.Option(metavar="LIST", help="Which attacks.")] = "relearn,quantise,rephrase,prefix",
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", "-o", metavar="DIR", help="Folder for results and records.", show_default="none is written"
        ),
    ] = None,
    unrelated: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Relearn from this text too.", show_default="none", rich_help_panel=_RELEARN),
    ] = None,
    relearn_samples: Annotated[
        int, typer.Option(help="Blocks or rows that the attacker has.", rich_help_panel=_RELEARN)
    ] = 1,
    relearn_steps: Annotated[
        str, typer.Option(metavar="LIST", help="Steps after which to look.", rich_help_panel=_RELEARN)
    ] = "2,4,8",
    relearn_epochs: Annotated[
        int,
        typer.Option(
            help="Passes of a second attacker over half of the forget text; 0 leaves it out.", rich_help_panel=_RELEARN
        ),
    ] = 1,
    learning_rate: Annotated[float, typer.Option(help="Of relearning.", rich_help_panel=_RELEARN)] = 3e-5,
    bits: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="What to round to: bits, bits and weights of a group (4g128), nf4.",
            rich_help_panel=_OTHERS,
        ),
    ] = "8,4,4g128,nf4",
    rephrased: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Rows of rephrased prompts and completions.",
            show_default="made by rules",
            rich_help_panel=_OTHERS,
        ),
    ] = None,
    prefixes: Annotated[
        str,
        typer.Option(metavar="LIST", help="Tokens shown before the continuation.", rich_help_panel=_OTHERS),
    ] = "8,16,32,64",
    draws: Annotated[
        int, typer.Option(help="Sampled continuations of each prefix; 0 for none.", rich_help_panel=_OTHERS)
    ] = 4,
    prompts: Annotated[int, typer.Option(help="Continuations in each state.", rich_help_panel=_MEASURE)] = 16,
    prompt_tokens: Annotated[
        int, typer.Option(help="Tokens of a prompt from plain text.", rich_help_panel=_MEASURE)
    ] = 32,
    continuation_tokens: Annotated[int, typer.Option(help="Tokens of a continuation.", rich_help_panel=_MEASURE)] = 32,
    block_size: Annotated[
        int, typer.Option(help="Tokens of the blocks that are measured and relearned.", rich_help_panel=_MEASURE)
    ] = 256,
    batch_size: BatchSizeOption = "auto",
    apply_chat_template: ChatTemplateFlag = False,
    system_prompt: SystemPromptOption = None,
    dtype: Annotated[
        str,
        typer.Option(metavar="DTYPE", help="Of the weights; relearning needs float32.", rich_help_panel=_RUN),
    ] = "float32",
    device: DeviceOption = "auto",
    seed: SeedOption = 42,
    overwrite: OverwriteFlag = False,
    config: ConfigFile = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    trust_remote_code: TrustFlag = False,
) -> None:
    """Attack a model that forgot, and see whether the text comes back.

    Example: taskarith attack edited --forget forget.txt --before tuned --retain retrained -o runs/attack

    Relearn on a piece of the text, round the weights, rephrase the prompts, extract with growing prefixes.

    Shares are of what the edit took away; beyond is what a model that never knew the text does not give.
    """
    del config
    sequences = parse_batch_size(batch_size)
    steps, sizes = _numbers("relearn-steps", relearn_steps), _numbers("prefixes", prefixes)
    widths = [int(part) if part.isascii() and part.isdigit() else part for part in map(str.strip, bits.split(","))]
    from taskarith.attacks.attack import attack
    from taskarith.console import Console
    from taskarith.report.attacks import attack_remarks, attack_tables, plot_recovery

    console = Console(as_json=as_json, quiet=quiet)
    try:
        result = attack(
            model,
            forget,
            before=before,
            retain=retain,
            attacks=attacks.split(","),
            unrelated=unrelated,
            rephrased=rephrased,
            relearn_samples=relearn_samples,
            relearn_steps=steps,
            relearn_epochs=relearn_epochs,
            learning_rate=learning_rate,
            bits=widths,
            prefixes=sizes,
            draws=draws,
            prompts=prompts,
            prompt_tokens=prompt_tokens,
            continuation_tokens=continuation_tokens,
            block_size=block_size,
            batch_size=sequences,
            apply_chat_template=apply_chat_template,
            system_prompt=system_prompt or "",
            dtype=dtype,
            device=device,
            seed=seed,
            output_dir=output_dir,
            overwrite=overwrite,
            draw=plot_recovery,
            trust_remote_code=trust_remote_code,
            listener=console,
        )
    finally:
        console.close()
    for table in attack_tables(result):
        console.table(table.title, table.columns, table.rows)
        console.line("")
    for remark in attack_remarks(result):
        console.note(remark)
    if output_dir is not None:
        console.note(f"results, records and the curve are in {output_dir}")
    console.result(result.to_json())


def _numbers(option: str, text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise UsageError(f"cannot read --{option} '{text}'", "Give whole numbers, as in 8,4")
    return [int(part) for part in parts]
