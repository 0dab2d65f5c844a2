"""The command `relate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.inputs import check_inputs
from taskarith.cli.options import (
    MEASURE,
    BaseOption,
    InputGroup,
    OutputOptions,
    ResultsGroup,
    RuntimeGroup,
    VectorsArgument,
    under,
)
from taskarith.cli.output import check_plot
from taskarith.cli.paper import PaperGroup
from taskarith.data.spec import parse_data, parse_named_data
from taskarith.spec import parse_operand

__all__ = ["command"]

_measure = under(MEASURE)


def command(
    vectors: VectorsArgument,
    *,
    model: BaseOption = None,
    rank: Annotated[
        int | None, typer.Option(metavar="K", help="Also compare the leading K singular directions of every matrix.")
    ] = None,
    beta: Annotated[float, typer.Option(help="The theorems' beta: small, and unknown for a real model.")] = 0.0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plot the cosines to a .svg, .png or .pdf file.")
    ] = None,
    data: Annotated[
        list[str] | None,
        _measure(metavar="NAME=SPEC", help="A test set of each vector's task, in the order of the vectors."),
    ] = None,
    cut: InputGroup,
    results: ResultsGroup,
    paper: PaperGroup,
    output: OutputOptions,
    runtime: RuntimeGroup,
) -> None:
    """Show how task vectors relate, and whether to add or negate them.

    Example: taskarith relate forget.safetensors retain.safetensors --data a=forget.txt --data b=retain.txt

    --data adds the verdict, and what subtracting the first vector is expected to cost the other tasks.
    """
    tests = parse_named_data(data) if data else None
    check_inputs([model], (tests or {}).values(), vectors)
    from taskarith.edit.operands import named_paths

    read = [*named_paths(parse_operand(text) for text in vectors), model or ""]
    read += [parse_data(spec).name for spec in (tests or {}).values()]
    if plot is not None:
        check_plot(plot, results.overwrite, read)
    paper.check(output.as_json, results.overwrite, read, results.output_dir)
    from taskarith.relations.relate import relate
    from taskarith.report.heatmap import draw_relations, plot_relations
    from taskarith.report.relations import relation_tables, verdict_lines
    from taskarith.report.report import draw_beside

    with output.console() as console:
        relation = relate(
            vectors,
            model=model,
            data=tests,
            rank=rank,
            beta=beta,
            **vars(results),
            launched=True,
            draw=draw_beside(results.output_dir, console, draw_relations),
            cut=cut,
            runtime=runtime,
            listener=console,
        )
    if plot is not None:
        from taskarith.checkpoints.team import launched_team

        launched_team().by_first(lambda: plot_relations(relation, plot, overwrite=results.overwrite))
        console.note(f"the cosines are plotted in {plot}")
    paper.write(relation, results.overwrite, console)
    if results.output_dir is not None:
        console.note(f"results, the cosines and report.html are in {results.output_dir}")
    remarks = [f"note: {remark}" for remark in relation.remarks]
    paper.show(relation, relation_tables(relation), console, lines=verdict_lines(relation), remarks=remarks)
    console.next("sweep", model or "MODEL", "--negate", vectors[0], "--data", "forget=FILE", "--data", "retain=FILE")
    console.result(relation.to_json())
