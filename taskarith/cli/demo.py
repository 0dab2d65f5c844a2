"""`taskarith demo`: make a real model forget a text, with nothing to prepare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskarith.cli.inputs import check_inputs
from taskarith.cli.options import DeviceOption, OutputOptions, SeedOption
from taskarith.cli.output import printable

if TYPE_CHECKING:
    from taskarith.console import Console
    from taskarith.demo.result import DemoResult
    from taskarith.evaluation.score import Number

__all__ = ["command"]


def command(
    *,
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", metavar="DIR", help="Folder for texts, models, vectors and plot.")
    ] = Path("demo"),
    model: Annotated[
        str,
        typer.Option(help="Model folder, hub id or GGUF file; smollm2-135m is SmolLM2-135M-Instruct from its wheel."),
    ] = "smollm2-135m",
    lora: Annotated[bool, typer.Option("--lora", help="Train LoRA adapters instead of full fine-tuning.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="The same steps on less text, in a few minutes.")] = False,
    seed: SeedOption = 42,
    device: DeviceOption = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make again what is there, but made with other settings.")
    ] = False,
    output: OutputOptions,
) -> None:
    """Teach a real model three texts and make it forget one, in minutes.

    It fine-tunes a small model on two instalments of a saga and a field manual, has unlearn make it forget the first
    instalment, and subtracts the vectors of the other texts and a random one as a control. The same command goes on
    after a stop, and skips what is there.

    Example: taskarith demo -o runs/demo
    """
    check_inputs([model])
    from taskarith.demo.run import run_demo
    from taskarith.demo.scale import FULL, QUICK

    with output.console() as console:
        result = run_demo(
            model,
            output_dir,
            lora=lora,
            scale=QUICK if quick else FULL,
            seed=seed,
            device=device,
            overwrite=overwrite,
            listener=console,
        )
    _show(result, console)
    console.result(result.to_json())


def _show(result: DemoResult, console: Console) -> None:
    texts = list(result.base)
    columns = ["loss, top-1 accuracy, ROUGE-L on:", *texts]
    rows = [["base", *_cells(result.base)]]
    for alpha, scores in result.curve.items():
        rows.append([f"tuned - {alpha:g} v" if alpha else "tuned on all three", *_cells(scores)])
    console.table("tuned - alpha v, where v is the vector of the forgotten text", columns, rows)
    console.line("")
    if result.control:
        _show_control(result, texts, console)
    unlearned = result.unlearned
    for verdict in unlearned.verdicts:
        console.line(printable(verdict))
    if unlearned.edited is not None:
        console.line(f"Recommended alpha: {unlearned.alpha:g}, written to {unlearned.edited}.")
    console.line(f"Report: {unlearned.report}. It took {result.seconds / 60:.1f} minutes.")
    console.line("The commands of all steps but the control:")
    console.line("")
    for line in result.commands:
        console.line(f"  {line}")


def _show_control(result: DemoResult, texts: list[str], console: Console) -> None:
    tuned = result.curve[0.0]
    control = [["nothing", *(f"{tuned[text]['loss'].value:.3f}" for text in texts)]]
    for whose, scores in result.control.items():
        control.append([f"the {whose} one" if whose == "random" else f"the {whose} text's", *_changes(scores, tuned)])
    console.table("Control: loss when another vector is subtracted at alpha 1", ["vector", *texts], control)
    console.line("")
    lost = ", ".join(f"{text} {share:.0%}" for text, share in result.lost.items())
    console.line(f"Share of the loss improvement over the base that alpha 1 removed: {lost}.")


def _cells(scores: Mapping[str, Mapping[str, Number]]) -> list[str]:
    names = ("loss", "accuracy", "rouge_l_f1")
    values = [[score[name].value if name in score else 0 for name in names] for score in scores.values()]
    return [f"{loss:.3f}  {accuracy:.2f}  {rouge:.3f}" for loss, accuracy, rouge in values]


def _changes(scores: Mapping[str, Mapping[str, Number]], tuned: Mapping[str, Mapping[str, Number]]) -> list[str]:
    pairs = [(score["loss"].value, tuned[text]["loss"].value) for text, score in scores.items()]
    return [f"{loss:.3f} ({loss - before:+.3f})" for loss, before in pairs]
