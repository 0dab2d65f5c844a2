"""The command `eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from taskarith.cli.config import read_recipe
from taskarith.cli.inputs import check_inputs
from taskarith.cli.options import (
    EDIT,
    MEASURE,
    LensOption,
    MeasurementOptions,
    OutputOptions,
    ResultsGroup,
    RuntimeGroup,
    VectorGroup,
    under,
)
from taskarith.cli.paper import FullFlag, PaperGroup
from taskarith.data.spec import parse_named_data
from taskarith.errors import UsageError
from taskarith.evaluation.measurement import Measurement
from taskarith.spec import finite_number, parse_alphas, short

__all__ = ["command"]

_data, _benchmark, _edit, _measure = under("Data"), under("Benchmarks"), under(EDIT), under(MEASURE)


class _MeasurementOptions(MeasurementOptions):
    limit: Annotated[
        int | None, _benchmark(metavar="N", help="Use only the first N samples of each benchmark text and task.")
    ]
    draws: Annotated[int, _measure(help="Sampled continuations per prompt, for leak@k.")]
    gradient_norms: Annotated[
        bool,
        _measure(
            "--gradient-norms", help="Measure gradient norms of forget and holdout samples, for membership inference."
        ),
    ]
    lens: LensOption


def command(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="Model folders, hub ids, GGUF files or adapter folders.")
    ],
    *,
    data: Annotated[list[str] | None, _data(metavar="NAME=SPEC", help="A text and its name; repeatable.")] = None,
    reference: Annotated[
        str | None,
        _data(
            metavar="MODEL",
            help="A model that never saw the forget set; becomes the reference.",
            show_default="the first model is the reference",
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        _benchmark(
            metavar="NAME[=FOLDER]",
            help="tofu[:forget01|:forget05|:forget10], muse-books or muse-news, from the hub or a local copy.",
        ),
    ] = None,
    tasks: Annotated[
        str | None, _benchmark(metavar="LIST", help="lm-eval tasks, such as piqa,arc_easy; needs the lm-eval extra.")
    ] = None,
    task_folder: Annotated[Path | None, _benchmark(metavar="DIR", help="Folder of more lm-eval task files.")] = None,
    vectors: VectorGroup,
    alpha: Annotated[
        str | None,
        _edit(
            metavar="LIST", help="Coefficients (0,0.5,1 or 0:1:0.1); the first is the reference.", show_default="0,1"
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        _edit(metavar="FILE", help="The edit as a recipe, as for apply --config.", exists=True, dir_okay=False),
    ] = None,
    measurement: Annotated[Measurement, _MeasurementOptions],
    full: FullFlag = False,
    results: ResultsGroup,
    paper: PaperGroup,
    output: OutputOptions,
    runtime: RuntimeGroup,
) -> None:
    """Measure how well models know texts, side by side.

    Example: taskarith eval base tuned edited --data forget=forget.txt --data holdout=unseen.txt -o runs/eval

    Loss, top-1 accuracy and memorisation are teacher-forced; ROUGE-L and verbatim use greedy continuations.
    Texts named forget and holdout give membership inference, with --reference also PrivLeak. KL and agreement compare
    next-token distributions with the reference's. --lens tells what each layer still knows of a text. Intervals are
    95%; score recomputes every number from the records.

    On several GPUs or machines: accelerate launch -m taskarith eval ...

    Public benchmarks by name: taskarith eval MODEL --benchmark tofu:forget10 --reference RETRAINED, or --tasks piqa

    An edit without writing it: taskarith eval MODEL --negate forget.safetensors --alpha 0,0.5,1 --data ...
    """
    texts = parse_named_data(data or ())
    check_inputs([*models, reference], texts.values(), [*vectors.add, *vectors.negate])
    from taskarith.checkpoints.targets import check_apart
    from taskarith.evaluation.evaluate import evaluate
    from taskarith.report.report import draw_beside
    from taskarith.report.scores import score_remarks

    paper.check(output.as_json, results.overwrite, [*models, reference or "", recipe or ""], results.output_dir)
    if recipe and results.output_dir:
        check_apart(results.output_dir, [recipe])
    edit = None if recipe is None else read_recipe(recipe)
    alphas = _alphas(
        alpha, edited=bool(vectors.add or vectors.negate or edit), last=edit.options.get("alpha", 1.0) if edit else 1.0
    )
    with output.console() as console:
        evaluation = evaluate(
            models,
            texts,
            reference=reference,
            benchmark=benchmark,
            task_folder=task_folder,
            tasks=tasks.split(",") if tasks is not None else (),
            **vars(vectors),
            alphas=alphas,
            recipe=edit,
            measurement=measurement,
            runtime=runtime,
            **vars(results),
            launched=True,
            draw=draw_beside(results.output_dir, console),
            listener=console,
        )
    scores = evaluation.scores
    paper.show(scores, paper.score_tables(scores, console, full=full), console, remarks=score_remarks(scores))
    paper.write(evaluation, results.overwrite, console)
    if results.output_dir is not None:
        console.note(f"results, records and report.html are in {results.output_dir}")
        console.next("score", results.output_dir, "--full")
    console.result(evaluation.scores.to_json())


def _alphas(text: str | None, *, edited: bool, last: Any) -> list[float]:
    """Return the coefficients of --alpha, or 0 and the recipe's."""
    if text is not None and not edited:
        raise UsageError("--alpha is given without a vector", "Give --negate V or --add V, or leave out --alpha.")
    if text is not None:
        return parse_alphas(text)
    number = finite_number(last)
    if number is None:
        raise UsageError(
            f"the recipe's alpha {short(last)} is not a finite number", "Write alpha: 1.0, or give --alpha."
        )
    return [0.0, number]
