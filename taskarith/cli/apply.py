"""`taskarith apply`: add and negate task vectors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.common import DeviceOption, IgnoreBuffersFlag, JsonFlag, OverwriteFlag, QuietFlag
from taskarith.cli.recipe import RecipeFile
from taskarith.edit.recipe import Recipe
from taskarith.merging.methods import METHODS, users
from taskarith.spec import parse_size

__all__ = ["command"]

_VECTOR = "V[@@BASE][:C]"


def command(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Folder, hub id or GGUF; by default the base that the vector records."),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            "--add", metavar=_VECTOR, help="Add a vector, LoRA folder or fine-tune (of BASE), C times; repeats."
        ),
    ] = None,
    negate: Annotated[
        list[str] | None, typer.Option("--negate", metavar=_VECTOR, help="Subtract one; repeats.")
    ] = None,
    protect: Annotated[
        list[str] | None,
        typer.Option("--protect", metavar="V", help="A vector of what is to be kept, for --method project; repeats."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="FILE", help="A weight for each parameter, for --method perta."),
    ] = None,
    alpha: Annotated[float, typer.Option("--alpha", help="Multiplies all coefficients.")] = 1.0,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            "--scale",
            metavar="SELECTOR=FACTOR",
            help="Multiply the coefficients of some tensors, as 'mlp=0.5', 'layers.0-11=0', 'layers=0..1'; repeats.",
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "-o", help="Folder to write; by default a name made of model and edit."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16, float16 or float64; by default the base's.")
    ] = None,
    vocab: Annotated[
        str | None,
        typer.Option(
            "--vocab",
            metavar="intersection|union",
            help="Where vocabularies differ in size, edit the rows that all have; union adds those of new tokens.",
        ),
    ] = None,
    ignore_buffers: IgnoreBuffersFlag = False,
    chat_template: Annotated[
        str | None,
        typer.Option(
            "--chat-template",
            metavar="FROM",
            help="Give the output the chat template of this model, or of this .jinja file.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="FROM", help="Give the output the tokenizer and template of this model."),
    ] = None,
    device: DeviceOption = "auto",
    max_shard_size: Annotated[
        str | None, typer.Option("--max-shard-size", help="As 5GB; by default the files of the base.")
    ] = None,
    overwrite: OverwriteFlag = False,
    method: Annotated[
        str, typer.Option("--method", help=f"How the vectors become one: {', '.join(METHODS)}.")
    ] = "linear",
    density: Annotated[
        float | None,
        typer.Option("--density", help=f"Share of each delta that is kept: {users('density')}."),
    ] = None,
    gamma: Annotated[
        float | None, typer.Option("--gamma", help=f"Share of outliers left out, 0.01 by default: {users('gamma')}.")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option("--epsilon", help=f"Half the range of probabilities, 0.15 by default: {users('epsilon')}."),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option("--normalize/--no-normalize", help="Divide by the sum of coefficients, or by nothing."),
    ] = None,
    rescale: Annotated[
        bool | None,
        typer.Option("--rescale/--no-rescale", help=f"Make up for what is dropped, by default: {users('rescale')}."),
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", help=f"Singular values that are kept: {users('rank')}.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help=f"Seed of random masks, 42 by default: {users('seed')}.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="Processes that write the output together.")] = 1,
    keep_undo: Annotated[
        bool, typer.Option("--keep-undo", help="Keep a patch from which undo restores the input, bit for bit.")
    ] = False,
    sha256: Annotated[
        bool, typer.Option("--sha256", help="Record the SHA-256 of the weight files, too: a second per GB.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; say what would be done, its cost, and what would fail.")
    ] = False,
    config: RecipeFile = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write MODEL plus added minus negated task vectors as a new model folder.

    Example: taskarith apply --negate forget.safetensors --alpha 1.0
    """
    from taskarith.checkpoints.targets import check_apart
    from taskarith.console import Console
    from taskarith.edit.apply import apply
    from taskarith.merging.methods import parse_method

    console = Console(as_json=as_json, quiet=quiet)
    recipe = config if isinstance(config, Recipe) else Recipe({})
    if recipe.path and output_dir:
        check_apart(output_dir, [recipe.path])
    recipe = recipe.changed(model, vectors=bool(add or negate), alpha=alpha, scale=scale or ())
    result = apply(
        model,
        add=add or (),
        negate=negate or (),
        operands=recipe.operands,
        protect=protect or (),
        weights=weights,
        alpha=alpha,
        scale=scale or (),
        output_dir=output_dir,
        dtype=dtype,
        vocab=vocab,
        ignore_buffers=ignore_buffers,
        chat_template=chat_template,
        tokenizer=tokenizer,
        device=device,
        max_shard_size=parse_size(max_shard_size) if max_shard_size else None,
        overwrite=overwrite,
        method=parse_method(
            method,
            density=density,
            gamma=gamma,
            epsilon=epsilon,
            normalize=normalize,
            rescale=rescale,
            seed=seed,
            rank=rank,
        ),
        jobs=jobs,
        launched=True,
        keep_undo=keep_undo,
        sha256=sha256,
        dry_run=dry_run,
        model_fingerprint=recipe.fingerprint,
        listener=console,
    )
    console.close()
    for remark in (*recipe.remarks, *result.remarks):
        console.note(f"note: {remark}")
    counts = ", ".join(f"{count} {action}" for action, count in result.actions.items())
    read, written = result.read_bytes / 1e6, result.write_bytes / 1e6
    verb = "would write" if dry_run else "wrote"
    console.note(f"{result.model}: tensors {counts}; read {read:,.1f} MB, {verb} {written:,.1f} MB")
    if result.undo_bytes:
        share = result.undo_bytes / max(result.write_bytes, 1)
        console.note(f"the way back takes {result.undo_bytes / 1e6:,.1f} MB, {share:.0%} of the model")
    if (cost := result.forecast) is not None:
        console.note(
            f"about {cost.seconds:,.1f} s at {cost.read_rate / 1e6:,.0f} MB/s reading and {cost.write_rate / 1e6:,.0f} "
            f"MB/s writing, about {cost.memory_bytes / 1e6:,.0f} MB of memory"
        )
        for problem in cost.problems:
            console.note(f"it would fail: {problem}")
    console.line(str(result.path))
    console.result(dataclasses.asdict(result) | {"path": str(result.path), "dry_run": dry_run})
