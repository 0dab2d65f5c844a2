"""The command `eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.common import (
    BatchSizeOption,
    ConfigFile,
    DeviceOption,
    DtypeOption,
    JsonFlag,
    OverwriteFlag,
    QuietFlag,
    SeedOption,
    SystemPromptOption,
    TrustFlag,
    load_config,
    parse_batch_size,
    show_scores,
)
from taskarith.errors import UsageError
from taskarith.spec import parse_alphas, parse_named_data

__all__ = ["command"]

_PUBLIC, _EDIT, _MEASURE, _RUN = "Benchmarks", "Edit in memory", "Measure", "Run"
_VECTOR = "V[@@BASE][:C]"


def command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Folders, hub ids, GGUF or adapter folders.",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="NAME=SPEC", help="A text and its name; repeat for several.", show_default=False
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", "-o", metavar="DIR", help="Folder for results and records.", show_default="none is written"
        ),
    ] = None,
    retain: Annotated[
        str | None,
        typer.Option(
            "--retain",
            metavar="MODEL",
            help="A model that never saw the forget set: one more row, and the reference.",
            show_default="the first model is the reference",
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            metavar="NAME[=FOLDER]",
            help="tofu[:forget01|:forget05|:forget10], muse-books or muse-news, from the hub or a local copy.",
            rich_help_panel=_PUBLIC,
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            metavar="LIST",
            help="Tasks of lm-eval, as piqa,arc_easy; needs the extra lm-eval.",
            rich_help_panel=_PUBLIC,
        ),
    ] = None,
    task_folder: Annotated[
        Path | None,
        typer.Option(
            "--task-folder", metavar="DIR", help="Folder of more task files of lm-eval.", rich_help_panel=_PUBLIC
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            help="The first N samples of each text of the benchmark and of each task only.",
            rich_help_panel=_PUBLIC,
        ),
    ] = None,
    apply_chat_template: Annotated[
        bool,
        typer.Option(
            "--apply-chat-template",
            help="Ask questions of rows and of TOFU, and tasks, through the chat template.",
            rich_help_panel=_MEASURE,
        ),
    ] = False,
    add: Annotated[
        list[str] | None,
        typer.Option("--add", metavar=_VECTOR, help="Add a vector in memory; repeatable.", rich_help_panel=_EDIT),
    ] = None,
    negate: Annotated[
        list[str] | None,
        typer.Option("--negate", metavar=_VECTOR, help="Subtract one; repeatable.", rich_help_panel=_EDIT),
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option(
            "--alpha",
            metavar="LIST",
            help="Coefficients, as 0,0.5,1 or 0:1:0.1; the first is the reference.",
            show_default="0,1",
            rich_help_panel=_EDIT,
        ),
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            "--scale",
            metavar="SELECTOR=FACTOR",
            help="Multiply the coefficients of some tensors, as apply does; repeatable.",
            rich_help_panel=_EDIT,
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            metavar="FILE",
            help="The edit as a recipe, with any method of merging, as for apply --config.",
            exists=True,
            dir_okay=False,
            rich_help_panel=_EDIT,
        ),
    ] = None,
    prompts: Annotated[
        int, typer.Option(help="Greedy continuations per text; 0 for losses only.", rich_help_panel=_MEASURE)
    ] = 16,
    prompt_tokens: Annotated[
        int, typer.Option(help="Tokens of a prompt from plain text.", rich_help_panel=_MEASURE)
    ] = 32,
    continuation_tokens: Annotated[int, typer.Option(help="Tokens of a continuation.", rich_help_panel=_MEASURE)] = 64,
    draws: Annotated[
        int,
        typer.Option(help="Continuations of each prompt to draw besides, for leak@k.", rich_help_panel=_MEASURE),
    ] = 0,
    gradient_norms: Annotated[
        bool,
        typer.Option(
            "--gradient-norms",
            help="Take the gradient of each sample of forget and holdout, for membership inference.",
            rich_help_panel=_MEASURE,
        ),
    ] = False,
    block_size: Annotated[
        int, typer.Option(help="Tokens of the blocks in which losses are measured.", rich_help_panel=_MEASURE)
    ] = 256,
    batch_size: BatchSizeOption = "auto",
    system_prompt: SystemPromptOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    seed: SeedOption = 42,
    overwrite: OverwriteFlag = False,
    config: ConfigFile = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    trust_remote_code: TrustFlag = False,
) -> None:
    """Measure how well models know texts, side by side.

    Example: taskarith eval base tuned edited --data forget=forget.txt --data holdout=unseen.txt -o runs/eval

    Loss, top-1 accuracy and memorisation are teacher-forced; ROUGE-L and verbatim are of greedy continuations.
    Texts named forget and holdout give membership inference, with --retain PrivLeak too. KL and agreement compare
    next-token distributions with the reference's. Intervals are of 95%; score makes all numbers again from the records.

    On several GPUs or machines: accelerate launch -m taskarith eval ...

    Public benchmarks by name: taskarith eval MODEL --benchmark tofu:forget10 --retain RETRAINED, or --tasks piqa

    An edit needs no written model: taskarith eval MODEL --negate forget.safetensors --alpha 0,0.5,1 --data ...
    """
    del config
    texts, sequences = parse_named_data(data or ()), parse_batch_size(batch_size)
    from taskarith.checkpoints.targets import check_apart
    from taskarith.console import Console
    from taskarith.edit.recipe import parse_recipe
    from taskarith.evaluation.evaluate import evaluate

    if recipe and output_dir:
        check_apart(output_dir, [recipe])
    edit = None if recipe is None else parse_recipe(load_config(recipe))
    alphas = _alphas(alpha, edited=bool(add or negate or edit), last=edit.options.get("alpha", 1.0) if edit else 1.0)
    console = Console(as_json=as_json, quiet=quiet)
    try:
        evaluation = evaluate(
            models,
            texts,
            retain=retain,
            benchmark=benchmark,
            tasks=tasks.split(",") if tasks is not None else (),
            task_folder=task_folder,
            limit=limit,
            apply_chat_template=apply_chat_template,
            add=add or (),
            negate=negate or (),
            alphas=alphas,
            scale=scale or (),
            recipe=edit,
            block_size=block_size,
            prompts=prompts,
            prompt_tokens=prompt_tokens,
            continuation_tokens=continuation_tokens,
            draws=draws,
            gradient_norms=gradient_norms,
            batch_size=sequences,
            system_prompt=system_prompt or "",
            dtype=dtype,
            device=device,
            seed=seed,
            output_dir=output_dir,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            launched=True,
            listener=console,
        )
    finally:
        console.close()
    show_scores(evaluation.scores, console)
    if output_dir is not None:
        console.note(f"results and records are in {output_dir}")
    console.result(evaluation.scores.to_json())


def _alphas(text: str | None, *, edited: bool, last: float) -> list[float]:
    if text is not None and not edited:
        raise UsageError("--alpha is given without a vector", "Name one with --negate V or --add V, or leave it out.")
    return [0.0, float(last)] if text is None else parse_alphas(text)
