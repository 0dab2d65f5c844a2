"""The command `ood`."""

from __future__ import annotations

import math
from typing import Annotated

from taskarith.cli.inputs import check_inputs
from taskarith.cli.options import BaseOption, InputGroup, OutputOptions, RuntimeGroup, VectorsArgument, under
from taskarith.cli.output import show_tables
from taskarith.data.spec import parse_named_data
from taskarith.errors import UsageError

__all__ = ["command"]


_target = under("Target task")


def command(
    vectors: VectorsArgument,
    *,
    model: BaseOption = None,
    gamma: Annotated[
        str | None, _target(metavar="LIST", help="Correlation of the target with each vector's task, such as 0.8,-0.6.")
    ] = None,
    data: Annotated[
        list[str] | None,
        _target(
            metavar="NAME=SPEC",
            help="Instead of --gamma: test set of the target, then optionally of each vector's task.",
        ),
    ] = None,
    margin: Annotated[float, _target(metavar="C", help="The theorem's c, between 0 and 1.")] = 0.1,
    threshold: Annotated[
        float | None, _target(metavar="T", help="Lower bound of both sums.", show_default="1 + c")
    ] = None,
    cap: Annotated[float, _target(help="Upper bound of every coefficient.", show_default="none")] = math.inf,
    cut: InputGroup,
    output: OutputOptions,
    runtime: RuntimeGroup,
) -> None:
    """Find coefficients for a task that has no vector (theorem 3).

    Example: taskarith ood first.safetensors second.safetensors --gamma 0.8,-0.6 --cap 2
    """
    gammas = None if gamma is None else _gammas(gamma)
    tests = parse_named_data(data) if data else None
    check_inputs([model], (tests or {}).values(), vectors)
    from taskarith.relations.out_of_domain import out_of_domain
    from taskarith.report.linear_programs import programme_lines, programme_tables

    with output.console() as console:
        result = out_of_domain(
            vectors,
            gammas=gammas,
            data=tests,
            model=model,
            margin=margin,
            threshold=threshold,
            cap=cap,
            launched=True,
            cut=cut,
            runtime=runtime,
            listener=console,
        )
    show_tables(programme_tables(result), console, programme_lines(result))
    for remark in result.remarks:
        console.note(f"note: {remark}")
    console.result(result.to_json())


def _gammas(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--gamma {text} is not a list of numbers", "Write numbers separated by commas, as in --gamma 0.8,-0.6"
        ) from error
