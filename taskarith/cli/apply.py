"""`taskarith apply`: add and negate task vectors."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.config import RecipeFile
from taskarith.cli.options import (
    EDIT,
    METHOD,
    DeviceOption,
    DryRunFlag,
    IgnoreBuffersFlag,
    Merging,
    MergingOptions,
    OutputOptions,
    OverwriteFlag,
    VectorGroup,
    VocabOption,
    under,
)
from taskarith.cli.output import show_cost
from taskarith.edit.recipe import Recipe
from taskarith.merging.methods import users
from taskarith.spec import parse_size

__all__ = ["command"]

_edit, _method, _output = under(EDIT), under(METHOD), under("Output")


class _MergingOptions(MergingOptions):
    gamma: Annotated[float | None, _method(help=f"Share of outliers left out: {users('gamma')}.", show_default="0.01")]
    epsilon: Annotated[
        float | None, _method(help=f"Half the range of keep probabilities: {users('epsilon')}.", show_default="0.15")
    ]
    normalize: Annotated[
        bool | None,
        _method(
            "--normalize/--no-normalize",
            help="Divide by the sum of the coefficients.",
            show_default="as the method does",
        ),
    ]
    rescale: Annotated[
        bool | None,
        _method(
            "--rescale/--no-rescale",
            help=f"Scale up what is kept to make up for what is dropped: {users('rescale')}.",
            show_default="rescale",
        ),
    ]
    seed: Annotated[int | None, _method(help=f"Seed of random masks: {users('seed')}.", show_default="42")]


@dataclass(frozen=True)
class _OutputOptions(OutputOptions):
    """``OutputOptions`` whose configuration may be a recipe."""

    config: RecipeFile = None  # ty: ignore[incompatible-attribute-override]  (only callbacks read the others)

    @property
    def recipe(self) -> Recipe:
        """The recipe that --config reads; empty without one."""
        return Recipe({}) if self.config is None else self.config


def command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="Model folder, hub id or GGUF file; by default the base recorded in the vector."
        ),
    ] = None,
    *,
    vectors: VectorGroup,
    alpha: Annotated[float, _edit(help="Multiplies all coefficients.")] = 1.0,
    vocab: VocabOption = None,
    ignore_buffers: IgnoreBuffersFlag = False,
    merging: Annotated[Merging, _MergingOptions],
    output_dir: Annotated[
        Path | None,
        _output(
            "--output-dir", "-o", metavar="DIR", help="Folder to write.", show_default="named after model and edit"
        ),
    ] = None,
    dtype: Annotated[
        str | None, _output(help="float32, bfloat16, float16 or float64.", show_default="as the base")
    ] = None,
    max_shard_size: Annotated[
        str | None, _output(help="Largest weight file, such as 5GB.", show_default="shards as the base")
    ] = None,
    chat_template: Annotated[
        str | None,
        _output(metavar="FROM", help="Give the output the chat template of this model, or of this .jinja file."),
    ] = None,
    tokenizer: Annotated[
        str | None, _output(metavar="FROM", help="Give the output the tokenizer and chat template of this model.")
    ] = None,
    keep_undo: Annotated[
        bool, _output("--keep-undo", help="Keep a patch from which undo restores the input, bit for bit.")
    ] = False,
    sha256: Annotated[
        bool, _output("--sha256", help="Also record the SHA-256 of the weight files: a second per GB.")
    ] = False,
    overwrite: OverwriteFlag = False,
    dry_run: DryRunFlag = False,
    jobs: Annotated[int, typer.Option(help="Processes that write the output together.")] = 1,
    device: DeviceOption = "auto",
    output: _OutputOptions,
) -> None:
    """Write MODEL plus or minus task vectors as a new model folder.

    Example: taskarith apply --negate forget.safetensors --alpha 1.0
    """
    from taskarith.checkpoints.targets import check_apart
    from taskarith.edit.apply import apply

    recipe = output.recipe
    if recipe.path and output_dir:
        check_apart(output_dir, [recipe.path])
    recipe = recipe.changed(model, vectors=bool(vectors.add or vectors.negate), alpha=alpha, scale=vectors.scale)
    with output.console() as console:
        result = apply(
            model,
            **vars(vectors),
            **merging.keywords(),
            operands=recipe.operands,
            alpha=alpha,
            output_dir=output_dir,
            dtype=dtype,
            vocab=vocab,
            ignore_buffers=ignore_buffers,
            chat_template=chat_template,
            tokenizer=tokenizer,
            device=device,
            max_shard_size=parse_size(max_shard_size) if max_shard_size else None,
            overwrite=overwrite,
            jobs=jobs,
            launched=True,
            keep_undo=keep_undo,
            sha256=sha256,
            dry_run=dry_run,
            model_fingerprint=recipe.fingerprint,
            listener=console,
        )
    for remark in (*recipe.remarks, *result.remarks):
        console.note(f"note: {remark}")
    counts = ", ".join(f"{count} {action}" for action, count in result.actions.items())
    read, written = result.read_bytes / 1e6, result.write_bytes / 1e6
    verb = "would write" if dry_run else "wrote"
    console.note(f"{result.model}: tensors {counts}; read {read:,.1f} MB, {verb} {written:,.1f} MB")
    if result.undo_bytes:
        share = result.undo_bytes / max(result.write_bytes, 1)
        console.note(f"undo patch: {result.undo_bytes / 1e6:,.1f} MB, {share:.0%} of the model")
    if (cost := result.forecast) is not None:
        show_cost(cost, console)
    console.line(str(result.path))
    if not dry_run:
        console.next("eval", result.model, result.path, "--data", "forget=FILE", "--data", "retain=FILE")
    console.result(asdict(result) | {"path": str(result.path), "dry_run": dry_run})
