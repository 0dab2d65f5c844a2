"""The command `ood`."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from taskarith.cli.common import ConfigFile, DeviceOption, DtypeOption, JsonFlag, QuietFlag, TrustFlag
from taskarith.errors import UsageError
from taskarith.spec import parse_named_data

__all__ = ["command"]

_MEASURE = "Measure"


def command(
    vectors: Annotated[
        list[str],
        typer.Argument(
            metavar="V", help="Task vectors, LoRA folders or fine-tuned models of known tasks.", show_default=False
        ),
    ],
    gamma: Annotated[
        str | None,
        typer.Option("--gamma", metavar="LIST", help="Correlation of the target with each vector's task, as 0.8,-0.6."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="NAME=SPEC",
            help="Instead: a test set of the target; after it, if wanted, one of each vector's task.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="The vectors' base.", show_default="the one they record"),
    ] = None,
    margin: Annotated[float, typer.Option("--margin", metavar="C", help="The theorem's c, between 0 and 1.")] = 0.1,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="T", help="Least value of both sums.", show_default="1 + c"),
    ] = None,
    cap: Annotated[
        float, typer.Option("--cap", help="Most that a coefficient may be.", show_default="none")
    ] = math.inf,
    block_size: Annotated[int, typer.Option(help="Tokens of a test input.", rich_help_panel=_MEASURE)] = 64,
    inputs: Annotated[int, typer.Option(help="Test inputs of each task, at most.", rich_help_panel=_MEASURE)] = 32,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    config: ConfigFile = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    trust_remote_code: TrustFlag = False,
) -> None:
    """Find coefficients of known vectors for a task that none was made for (theorem 3).

    Example: taskarith ood first.safetensors second.safetensors --gamma 0.8,-0.6 --cap 2
    """
    del config
    gammas = None if gamma is None else _gammas(gamma)
    tests = parse_named_data(data) if data else None
    from taskarith.console import Console
    from taskarith.relations.out_of_domain import out_of_domain
    from taskarith.report.linear_programs import programme_lines, programme_tables

    console = Console(as_json=as_json, quiet=quiet)
    try:
        found = out_of_domain(
            vectors,
            gammas=gammas,
            data=tests,
            model=model,
            margin=margin,
            threshold=threshold,
            cap=cap,
            block_size=block_size,
            inputs=inputs,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            listener=console,
        )
    finally:
        console.close()
    for table in programme_tables(found):
        console.table(table.title, table.columns, table.rows)
        console.line("")
    for line in programme_lines(found):
        console.line(line)
    for remark in found.remarks:
        console.note(f"note: {remark}")
    console.result(found.to_json())


def _gammas(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--gamma {text} is not a list of numbers", "As in --gamma 0.8,-0.6") from error
