"""The command `unlearn`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.inputs import check_inputs
from taskarith.cli.options import (
    MEASURE,
    DeviceOption,
    DryRunFlag,
    LensOption,
    MeasurementOptions,
    ModelArgument,
    OutputOptions,
    TrustFlag,
    under,
)
from taskarith.cli.output import printable
from taskarith.evaluation.measurement import Measurement
from taskarith.spec import parse_alphas
from taskarith.unlearning.task import ALPHAS, KEEP, MEASUREMENT

__all__ = ["command"]

_data, _learn, _choose, _measure = under("Data"), under("Learn"), under("Choose"), under(MEASURE)


class _MeasurementOptions(MeasurementOptions):
    block_size: Annotated[int, _measure(help="Tokens per block in which losses are measured.")] = MEASUREMENT.block_size
    continuation_tokens: Annotated[int, _measure(help="Continuation length, in tokens.")] = (
        MEASUREMENT.continuation_tokens
    )
    lens: LensOption = MEASUREMENT.lens


def command(
    model: ModelArgument,
    *,
    forget: Annotated[str, _data(metavar="SPEC", help="The text to forget: a file, folder, pattern or data set.")],
    retain: Annotated[list[str], _data(metavar="SPEC", help="A text to keep; repeatable.")],
    holdout: Annotated[
        str | None,
        _data(metavar="SPEC", help="A text of the same kind as --forget that MODEL never saw.", show_default="none"),
    ] = None,
    reference: Annotated[
        str | None, _data(metavar="MODEL", help="A model that never saw the text to forget.", show_default="none")
    ] = None,
    base: Annotated[
        str | None,
        _learn(metavar="MODEL", help="What MODEL was made from, to learn vectors on.", show_default="MODEL"),
    ] = None,
    lora: Annotated[
        bool | None, _learn("--lora/--full", help="Learn by adapters, or all weights.", show_default="by memory")
    ] = None,
    learning_rate: Annotated[float | None, _learn(help="Peak learning rate.", show_default="by the width")] = None,
    num_train_epochs: Annotated[
        float | None, _learn(help="Passes over the data.", show_default="3; with --base until the loss is 0.5")
    ] = None,
    keep: Annotated[
        float, _choose(help="Share of the vector of the texts to keep that is added; 0 to learn none.")
    ] = KEEP,
    alpha: Annotated[
        str | None,
        _choose(metavar="LIST", help="Coefficients to try.", show_default=",".join(f"{one:g}" for one in ALPHAS)),
    ] = None,
    budget: Annotated[
        float | None,
        _choose(
            help="Allowed rise of the kept texts' loss, in nats per token.",
            show_default="none with --reference or --holdout, which set the loss to reach; else 0.1",
        ),
    ] = None,
    compromise: Annotated[
        bool, _choose("--compromise", help="Write the best compromise if no alpha meets the rule.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer coefficients, prompts and attacks.")] = False,
    dry_run: DryRunFlag = False,
    measurement: Annotated[Measurement, _MeasurementOptions],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", metavar="DIR", help="Folder of the run.")] = Path(
        "unlearned"
    ),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make again what is there, but of other inputs or settings.")
    ] = False,
    device: DeviceOption = "auto",
    trust_remote_code: TrustFlag = False,
    output: OutputOptions,
) -> None:
    """Make a model forget a text, and measure what is left of it.

    Example: taskarith unlearn tuned --forget forget.txt --retain retain.txt --base base --holdout unseen.txt

    It measures the model, learns the vectors of the text to forget and of those to keep, chooses alpha, writes the
    edited model, measures and attacks it, and writes a report. Every step is printed as the command that repeats it.
    The same command goes on after a stop, and skips what is there.

    Exit code 1 without an error: no model was written, since there is nothing to forget, or no alpha meets the rule.
    """
    alphas = None if alpha is None else parse_alphas(alpha)
    check_inputs([model, base, reference], [forget, *retain, holdout])
    from taskarith.unlearning.unlearn import unlearn

    with output.console() as console:
        result = unlearn(
            model,
            forget,
            retain,
            output_dir,
            holdout=holdout,
            reference=reference,
            base=base,
            lora=lora,
            learning_rate=learning_rate,
            num_train_epochs=num_train_epochs,
            keep=keep,
            budget=budget,
            alphas=alphas,
            compromise=compromise,
            quick=quick,
            dry_run=dry_run,
            measurement=_given(measurement, quick),
            device=device,
            trust_remote_code=trust_remote_code,
            overwrite=overwrite,
            listener=console,
        )
        for line in result.commands if dry_run else result.verdicts:
            console.line(printable(line))
        if result.edited is not None:
            console.line(f"edited model: {result.edited}")
            console.next("clean", output_dir, "--forget-data")
        console.result(result.to_json())
    if result.edited is None and not dry_run:
        raise typer.Exit(1)


def _given(measurement: Measurement, quick: bool) -> Measurement | None:
    """Return what was set, or None for the defaults of ``unlearn``, which depend on ``--quick``."""
    return None if quick and measurement == MEASUREMENT else measurement
