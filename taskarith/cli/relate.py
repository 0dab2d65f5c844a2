"""The command `relate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.common import ConfigFile, DeviceOption, DtypeOption, JsonFlag, OverwriteFlag, QuietFlag, TrustFlag
from taskarith.errors import OutputError
from taskarith.spec import parse_data, parse_named_data, parse_operand

__all__ = ["command"]

_OUTPUTS = "What the models answer"


def command(
    vectors: Annotated[
        list[str],
        typer.Argument(
            metavar="V", help="Two or more task vectors, LoRA folders or fine-tuned models.", show_default=False
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Their base.", show_default="the one they record")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="NAME=SPEC",
            help="A test set of each vector's task, in their order.",
            rich_help_panel=_OUTPUTS,
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", metavar="K", help="Compare the leading K singular directions of every matrix too."),
    ] = None,
    beta: Annotated[
        float, typer.Option("--beta", help="The theorems' beta: small, and unknown for a real model.")
    ] = 0.0,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the cosines: *.svg or *.png.")
    ] = None,
    block_size: Annotated[int, typer.Option(help="Tokens of a test input.", rich_help_panel=_OUTPUTS)] = 64,
    inputs: Annotated[int, typer.Option(help="Test inputs of each task, at most.", rich_help_panel=_OUTPUTS)] = 32,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    overwrite: OverwriteFlag = False,
    config: ConfigFile = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    trust_remote_code: TrustFlag = False,
) -> None:
    """Show how task vectors relate, and what follows for adding and negating them.

    Example: taskarith relate forget.safetensors retain.safetensors --data a=forget.txt --data b=retain.txt

    With data: the verdict, and what taking the first vector away is expected to cost the other tasks.
    """
    del config
    tests = parse_named_data(data) if data else None
    if plot is not None:
        _check_plot(
            plot, overwrite, vectors, [model or "", *(parse_data(spec).name for spec in (tests or {}).values())]
        )
    from taskarith.console import Console
    from taskarith.relations.relate import relate
    from taskarith.report.relations import relation_tables, verdict_lines

    console = Console(as_json=as_json, quiet=quiet)
    try:
        found = relate(
            vectors,
            model=model,
            data=tests,
            rank=rank,
            beta=beta,
            block_size=block_size,
            inputs=inputs,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            listener=console,
        )
    finally:
        console.close()
    if plot is not None:
        from taskarith.report.heatmap import plot_relations

        plot_relations(found, plot, overwrite=overwrite)
        console.note(f"the cosines are drawn in {plot}")
    for table in relation_tables(found):
        console.table(table.title, table.columns, table.rows)
        console.line("")
    for line in verdict_lines(found):
        console.line(line)
    for remark in found.remarks:
        console.note(f"note: {remark}")
    console.result(found.to_json())


def _check_plot(plot: Path, overwrite: bool, vectors: Sequence[str], inputs: Sequence[str]) -> None:
    """Refuse at once a picture that could not be drawn in the end."""
    from taskarith.checkpoints.targets import check_target
    from taskarith.edit.operands import named_paths

    if plot.suffix not in {".svg", ".png"}:
        raise OutputError(f"cannot draw into {plot}", "Name a file *.svg or *.png.")
    read = named_paths(parse_operand(text) for text in vectors)
    check_target(plot, overwrite, is_folder=False, inputs=[*read, *inputs])
