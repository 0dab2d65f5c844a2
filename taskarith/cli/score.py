"""The command `score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.common import ConfigFile, JsonFlag, QuietFlag, printable

__all__ = ["command"]


def command(
    records: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECORDS",
            help="Folders of eval, records.jsonl files, or TOFU's eval_log*.json.",
            show_default=False,
        ),
    ],
    retain: Annotated[
        Path | None,
        typer.Option(
            "--retain",
            metavar="RECORDS",
            help="Records of a model that never saw the forget set.",
            show_default="none: numbers that need it are named",
        ),
    ] = None,
    seeds: Annotated[
        bool, typer.Option("--seeds", help="The records are of one evaluation under several seeds: mean and spread.")
    ] = False,
    config: ConfigFile = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Recompute every number from stored records, without a model.

    Example: taskarith score runs/eval --retain runs/eval-retrained

    Means have 95% bootstrap intervals over samples, AUCs DeLong's. Texts named forget, retain, real_authors and
    world_facts give TOFU's numbers, forget and holdout membership inference.
    """
    del config
    from taskarith.console import Console
    from taskarith.evaluation.score import score
    from taskarith.report.scores import score_remarks, score_tables

    console = Console(as_json=as_json, quiet=quiet)
    scores = score(records, retain=retain, seeds=seeds)
    for table in score_tables(scores):
        rows = [[printable(cell) for cell in row] for row in table.rows]
        console.table(printable(table.title), [printable(column) for column in table.columns], rows)
    for remark in score_remarks(scores):
        console.note(printable(remark))
    console.result(scores.to_json())
