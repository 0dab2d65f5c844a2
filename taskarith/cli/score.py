"""The command `score`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from taskarith.cli.options import OutputOptions, ResultsGroup
from taskarith.cli.output import check_plot
from taskarith.cli.paper import FullFlag, PaperGroup
from taskarith.errors import UsageError

__all__ = ["command"]


def command(
    records: Annotated[
        list[Path],
        typer.Argument(metavar="RECORDS", help="Folders of eval, records.jsonl files, or TOFU's eval_log*.json."),
    ],
    *,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|RECORDS",
            help="A model in RECORDS that never saw the forget set, or records of such a model.",
        ),
    ] = None,
    finetuned: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=MODEL|RECORDS",
            help="The model fine-tuned for a task or text, for normalised accuracy; repeatable.",
            show_default="none",
        ),
    ] = None,
    seeds: Annotated[
        bool, typer.Option("--seeds", help="The records are one evaluation under several seeds; give mean and spread.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Plot forgetting and its cost, one curve a method, to a .svg, .png or .pdf file.",
            show_default="none",
        ),
    ] = None,
    full: FullFlag = False,
    results: ResultsGroup,
    paper: PaperGroup,
    output: OutputOptions,
) -> None:
    """Recompute every number from stored records, without a model.

    Example: taskarith score runs/eval --reference runs/eval-retrained

    Intervals are 95%, over samples. Texts named forget, retain, real_authors and
    world_facts give TOFU's metrics; forget and holdout give membership inference.
    """
    paper.check(output.as_json, results.overwrite, records, results.output_dir)
    if plot is not None:
        check_plot(plot, results.overwrite, records)
    from taskarith.evaluation.score import score
    from taskarith.report.scores import score_remarks

    asked: dict[str, Any] = {"reference": reference, "finetuned": _pairs(finetuned or ()), "seeds": seeds}
    with output.console() as console:
        if results.output_dir is None:
            scores = score(records, **asked)
        else:
            from taskarith.evaluation.scored import write_scores
            from taskarith.report.report import draw_beside

            draw = draw_beside(results.output_dir, console)
            scores = write_scores(records, results.output_dir, **asked, overwrite=results.overwrite, draw=draw)
            console.note(f"results, records and report.html are in {results.output_dir}")
    paper.show(scores, paper.score_tables(scores, console, full=full), console, remarks=score_remarks(scores))
    paper.write(scores, results.overwrite, console)
    if plot is not None:
        from taskarith.report.methods import plot_methods

        plot_methods(scores, plot, overwrite=results.overwrite)
        console.note(f"the losses are plotted in {plot}")
    console.result(scores.to_json())


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    """Read ``TASK=MODEL`` arguments; a task's name contains no equals sign."""
    pairs = [text.partition("=") for text in texts]
    for text, (task, _, model) in zip(texts, pairs, strict=True):
        if not task or not model:
            raise UsageError(f"cannot read --finetuned '{text}'", "Write TASK=MODEL, as in piqa=runs/piqa")
    if len({task for task, _, _ in pairs}) < len(pairs):
        raise UsageError("--finetuned names a task twice", "Name one model for each task.")
    return {task: model for task, _, model in pairs}
