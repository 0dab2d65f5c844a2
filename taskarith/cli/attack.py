"""The command `attack`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from taskarith.attacks.defaults import MEASUREMENT, RUNTIME
from taskarith.cli.inputs import check_inputs
from taskarith.cli.options import (
    MEASURE,
    MODEL,
    MeasurementOptions,
    OutputOptions,
    ResultsGroup,
    RuntimeOptions,
    under,
)
from taskarith.cli.paper import PaperGroup
from taskarith.errors import UsageError
from taskarith.evaluation.measurement import Measurement
from taskarith.models.runtime import Runtime

__all__ = ["command"]
_attack, _relearn, _others = under("Attack"), under("Relearn"), under("Quantise, rephrase, prefix")
_measure, _model = under(MEASURE), under(MODEL)


class _MeasurementOptions(MeasurementOptions):
    block_size: Annotated[int, _measure(help="Tokens per block, to measure and to relearn.")]
    prompts: Annotated[int, _measure(help="Continuations per attacked model.")]
    continuation_tokens: Annotated[int, _measure(help="Continuation length, in tokens.")] = (
        MEASUREMENT.continuation_tokens
    )


class _RuntimeOptions(RuntimeOptions):
    dtype: Annotated[str, _model(metavar="DTYPE", help="Dtype of the weights; relearning needs float32.")] = (
        RUNTIME.dtype
    )


def _reference(words: str) -> Any:
    """Return the option of a model that the edited one is compared with."""
    return _attack(metavar="MODEL", help=words, show_default="none")


def command(
    model: Annotated[str, typer.Argument(metavar="EDITED", help="The model that forgot: folder, hub id or GGUF file.")],
    *,
    forget: Annotated[str, _attack(metavar="SPEC", help="The text it forgot.")],
    before: Annotated[str | None, _reference("The model before the edit, which sets what can be recovered.")] = None,
    reference: Annotated[
        str | None,
        _reference("A model that never saw the text (the base, or retrained without it); attacked in the same way."),
    ] = None,
    attacks: Annotated[str, _attack(metavar="LIST", help="Attacks to run.")] = "relearn,quantise,rephrase,prefix",
    unrelated: Annotated[
        str | None, _relearn(metavar="SPEC", help="Also relearn on this text.", show_default="none")
    ] = None,
    relearn_samples: Annotated[int, _relearn(help="Blocks or rows given to the attacker.")] = 1,
    relearn_steps: Annotated[str, _relearn(metavar="LIST", help="Optimizer steps after which to measure.")] = "2,4,8",
    relearn_epochs: Annotated[
        int, _relearn(help="Epochs of a second attacker on half of the forget text; 0 to skip it.")
    ] = 1,
    learning_rate: Annotated[float, _relearn(help="Learning rate of the relearning attack.")] = 3e-5,
    bits: Annotated[
        str, _others(metavar="LIST", help="Quantisation formats: bits (8), bits and group size (4g128), or nf4.")
    ] = "8,4,4g128,nf4",
    rephrased: Annotated[
        str | None,
        _others(metavar="FILE", help="Rows of rephrased prompts and completions.", show_default="rephrased by rules"),
    ] = None,
    prefixes: Annotated[str, _others(metavar="LIST", help="Prefix lengths, in tokens.")] = "8,16,32,64",
    draws: Annotated[int, _others(help="Sampled continuations per prefix; 0 for none.")] = 4,
    measurement: Annotated[Measurement, _MeasurementOptions],
    results: ResultsGroup,
    paper: PaperGroup,
    output: OutputOptions,
    runtime: Annotated[Runtime, _RuntimeOptions],
) -> None:
    """Try to bring a forgotten text back.

    Example: taskarith attack edited --forget forget.txt --before tuned --reference retrained -o runs/attack

    Relearn on a piece of the text, round the weights, rephrase the prompts, extract with growing prefixes.

    Shares are of what the edit took away; beyond is what a model that never knew the text does not give.
    """
    steps, sizes = _numbers("relearn-steps", relearn_steps), _numbers("prefixes", prefixes)
    widths = [int(part) if part.isascii() and part.isdigit() else part for part in map(str.strip, bits.split(","))]
    check_inputs([model, before, reference], [forget, unrelated, rephrased])
    paper.check(output.as_json, results.overwrite, [model, before or "", reference or ""], results.output_dir)
    from taskarith.attacks.attack import attack
    from taskarith.report.attacks import attack_remarks, attack_tables, plot_recovery
    from taskarith.report.report import draw_beside

    with output.console() as console:
        result = attack(
            model,
            forget,
            before=before,
            reference=reference,
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
            **vars(results),
            launched=True,
            draw=draw_beside(results.output_dir, console, plot_recovery),
            measurement=measurement,
            runtime=runtime,
            listener=console,
        )
    paper.show(result, attack_tables(result), console, remarks=attack_remarks(result))
    paper.write(result, results.overwrite, console)
    if results.output_dir is not None:
        console.note(f"results, records, the curve and report.html are in {results.output_dir}")
        console.next("report", "EVALUATION", results.output_dir, "-o", "report.html")
    console.result(result.to_json())


def _numbers(option: str, text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise UsageError(f"cannot read --{option} '{text}'", "Give whole numbers separated by commas, such as 8,4")
    return [int(part) for part in parts]
