"""The command `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.common import (
    BatchSizeOption,
    ChatTemplateFlag,
    ConfigFile,
    DeviceOption,
    DtypeOption,
    JsonFlag,
    OverwriteFlag,
    QuietFlag,
    SeedOption,
    SystemPromptOption,
    TrustFlag,
    parse_batch_size,
    show_scores,
    show_tables,
)
from taskarith.spec import parse_alphas, parse_named_data

__all__ = ["command"]

_EDIT, _CHOOSE, _SEARCH, _MEASURE, _RUN = "Edit", "Choose", "Search", "Measure", "Run"
_VECTOR = "V[@@BASE][:C]"


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder, hub id or GGUF.", show_default=False)],
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            metavar="NAME=SPEC",
            help="A text: to be forgotten if its name begins with forget, else to be kept; repeats.",
            show_default=False,
        ),
    ],
    add: Annotated[
        list[str] | None, typer.Option("--add", metavar=_VECTOR, help="Add a vector; repeats.", rich_help_panel=_EDIT)
    ] = None,
    negate: Annotated[
        list[str] | None,
        typer.Option("--negate", metavar=_VECTOR, help="Subtract one; repeats.", rich_help_panel=_EDIT),
    ] = None,
    alpha: Annotated[
        str,
        typer.Option(
            "--alpha",
            metavar="LIST",
            help="Coefficients, as 0,0.5,1 or 0:2:0.1; 0 is always measured. The bounds of a search.",
            rich_help_panel=_EDIT,
        ),
    ] = "0:2:0.2",
    scale: Annotated[
        list[str] | None,
        typer.Option(
            "--scale",
            metavar="SELECTOR=FACTOR",
            help="Multiply the coefficients of some tensors, as apply does; repeats.",
            rich_help_panel=_EDIT,
        ),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="How the vectors become one, as in apply.", rich_help_panel=_EDIT)
    ] = "linear",
    density: Annotated[
        float | None, typer.Option("--density", help="Of a method that has it.", rich_help_panel=_EDIT)
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="Of method low_rank.", rich_help_panel=_EDIT)] = None,
    protect: Annotated[
        list[str] | None,
        typer.Option("--protect", metavar="V", help="A vector to keep, for method project.", rich_help_panel=_EDIT),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", metavar="FILE", help="Weights of parameters, for method perta.", rich_help_panel=_EDIT
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="MODEL",
            help="A model that never knew what is to be forgotten: the level to reach.",
            rich_help_panel=_CHOOSE,
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option("--target", help="Instead: the loss to reach, in nats a token.", rich_help_panel=_CHOOSE),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            help="The other rule: forget most while the loss of what is kept rises by at most so many nats.",
            rich_help_panel=_CHOOSE,
        ),
    ] = None,
    search: Annotated[
        int,
        typer.Option(
            "--search",
            metavar="N",
            help="N trials by optuna, for a coefficient of each vector.",
            rich_help_panel=_SEARCH,
        ),
    ] = 0,
    gradient: Annotated[
        int,
        typer.Option("--gradient", metavar="N", help="Instead: N steps of gradient descent.", rich_help_panel=_SEARCH),
    ] = 0,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="layer|module",
            help="A coefficient of each third of the layers, or kind of module; repeats for both.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    kl: Annotated[
        float, typer.Option("--kl", help="Weight of the KL divergence on what is kept.", rich_help_panel=_SEARCH)
    ] = 0.0,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="FILE|URL",
            help="Keep trials, to go on later or in several processes; as trials.jsonl or sqlite:///trials.db.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            metavar="DIR",
            help="Folder for recipe, results, records and figure.",
            show_default="none is written",
        ),
    ] = None,
    prompts: Annotated[
        int, typer.Option(help="Greedy continuations per text; 0 for losses only.", rich_help_panel=_MEASURE)
    ] = 16,
    prompt_tokens: Annotated[
        int, typer.Option(help="Tokens of a prompt from plain text.", rich_help_panel=_MEASURE)
    ] = 32,
    continuation_tokens: Annotated[int, typer.Option(help="Tokens of a continuation.", rich_help_panel=_MEASURE)] = 64,
    block_size: Annotated[
        int, typer.Option(help="Tokens of the blocks in which losses are measured.", rich_help_panel=_MEASURE)
    ] = 256,
    batch_size: BatchSizeOption = "auto",
    apply_chat_template: ChatTemplateFlag = False,
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
    """Measure a model edited in memory at many coefficients, and choose one by a rule.

    Example: taskarith sweep tuned --negate v.safetensors --reference base --data forget=A --data retain=B -o runs/sweep

    The model is loaded once. The rule chooses on one half of the samples: the least alpha that reaches the level of the
    reference, or the most forgetting within a budget; the other half says what it is worth. runs/sweep/recipe.yaml
    is what apply --config takes.
    """
    del config
    alphas, texts, sequences = parse_alphas(alpha), parse_named_data(data), parse_batch_size(batch_size)
    from taskarith.console import Console
    from taskarith.merging.methods import parse_method
    from taskarith.report.sweep import plot_sweep, sweep_remarks, sweep_table
    from taskarith.sweeps.sweep import RECIPE, sweep

    console = Console(as_json=as_json, quiet=quiet)
    try:
        found = sweep(
            model,
            texts,
            add=add or (),
            negate=negate or (),
            alphas=alphas,
            search=search,
            gradient=gradient,
            by=by or (),
            reference=reference,
            target=target,
            budget=budget,
            kl=kl,
            storage=storage,
            method=parse_method(method, density=density, rank=rank),
            scale=scale or (),
            protect=protect or (),
            weights=weights,
            block_size=block_size,
            prompts=prompts,
            prompt_tokens=prompt_tokens,
            continuation_tokens=continuation_tokens,
            batch_size=sequences,
            apply_chat_template=apply_chat_template,
            system_prompt=system_prompt or "",
            dtype=dtype,
            device=device,
            seed=seed,
            output_dir=output_dir,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            launched=True,
            draw=plot_sweep,
            listener=console,
        )
    except KeyboardInterrupt as error:
        if storage is not None:
            error.add_note(f"Finished trials are kept in {storage}: the same command goes on after them.")
        raise
    finally:
        console.close()
    show_tables(sweep_table(found), console)
    console.line("")
    console.line("the held-out half:")
    show_scores(found.heldout, console)
    for remark in sweep_remarks(found):
        console.note(remark)
    if output_dir is not None:
        what = f"{RECIPE} (apply --config), " if found.recipe is not None else ""
        console.note(f"{what}results, records and figure are in {output_dir}")
    console.line("nothing recommended" if found.chosen is None else f"recommended: {_values(found.recipe)}")
    console.result(found.to_json())


def _values(recipe: object) -> str:
    """Write the coefficients of a recipe in a line."""
    assert isinstance(recipe, dict)  # noqa: S101
    operands = [
        f"{one['coefficient']:+.4g} {Path(one['vector']).name}" + (f" {one['scale']}" if "scale" in one else "")
        for one in recipe["operands"]
    ]
    return f"alpha {recipe['alpha']:g}, {', '.join(operands)}"
