"""The command `score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.common import ConfigFile, JsonFlag, QuietFlag, show_scores

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
        str | None,
        typer.Option(
            "--retain",
            metavar="MODEL|RECORDS",
            help="A model of RECORDS that never saw the forget set, or records of one.",
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

    Numbers have 95% intervals over their samples. Texts named forget, retain, real_authors and
    world_facts give TOFU's numbers, forget and holdout membership inference.
    """
    del config
    from taskarith.console import Console
    from taskarith.evaluation.score import score

    console = Console(as_json=as_json, quiet=quiet)
    scores = score(records, retain=retain, seeds=seeds)
    show_scores(scores, console)
    console.result(scores.to_json())
