"""The command `finetune`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskarith.cli.inputs import check_inputs
from taskarith.cli.options import (
    ChatTemplateFlag,
    DeviceOption,
    ModelArgument,
    OutputOptions,
    OverwriteFlag,
    SeedOption,
    SystemPromptOption,
    TrustFlag,
    under,
)
from taskarith.cli.output import check_plot
from taskarith.data.spec import parse_data
from taskarith.errors import OutputError
from taskarith.training.settings import RMU_STEERING, TrainingSettings

if TYPE_CHECKING:
    from taskarith.console import Console
    from taskarith.training.forecast import TrainingForecast
    from taskarith.training.result import FinetuneResult

__all__ = ["command"]

_data, _lora, _training, _run = under("Data"), under("LoRA"), under("Training"), under("Run")
_objective, _validation = under("Objective"), under("Validation")


class _TrainingOptions:
    """Options of ``TrainingSettings``."""

    block_size: Annotated[int, _data(help="Tokens per block of plain text, and the maximum of a row.")]
    stride: Annotated[
        int | None,
        _data(
            help="Tokens between the starts of blocks of plain text, which then overlap; each token is learned once.",
            show_default="the block",
        ),
    ]
    packing: Annotated[
        bool, _data("--packing", help="Lay rows of a batch end to end instead of padding them; the loss is the same.")
    ]
    group_by_length: Annotated[
        bool, _data("--group-by-length", help="Put rows of similar lengths into a batch, to save padding.")
    ]
    learning_rate: Annotated[
        float | None, _training(help="Peak learning rate.", show_default="5e-5, or 5e-4 with --lora")
    ]
    num_train_epochs: Annotated[
        float | None, _training(help="Passes over the data.", show_default="3, or at most 30 with --until-loss")
    ]
    max_steps: Annotated[int | None, _training(help="Optimizer steps; overrides epochs.", show_default="by epochs")]
    until_loss: Annotated[
        float | None, _training(help="Stop after the first epoch whose mean loss is at most this.", show_default="none")
    ]
    per_device_train_batch_size: Annotated[int, _training(help="Batch size per device.")]
    gradient_accumulation_steps: Annotated[int, _training(help="Batches per optimizer step.")]
    gradient_checkpointing: Annotated[bool, _training("--gradient-checkpointing", help="Trade time for memory.")]
    lr_scheduler_type: Annotated[str, _training(metavar="NAME", help="linear, cosine, constant, ...")]
    warmup_steps: Annotated[float, _training(help="Warmup steps; below 1, a share of all steps.")]
    weight_decay: Annotated[float, _training(help="Weight decay of AdamW.")]
    max_grad_norm: Annotated[float, _training(help="Clip gradients to this norm; 0 disables clipping.")]
    bf16: Annotated[
        bool | None,
        _training(
            "--bf16/--no-bf16",
            help="bfloat16 autocast; weights stay float32.",
            show_default="on where the device is fast at it",
        ),
    ]
    dtype: Annotated[
        str, _training(metavar="DTYPE", help="Dtype of the saved weights; 16-bit dtypes round most of the change away.")
    ]
    lora: Annotated[bool, _lora("--lora", help="Train a LoRA adapter instead of all weights.")]
    lora_rank: Annotated[int, _lora(help="Rank of the adapter.")]
    lora_alpha: Annotated[float | None, _lora(help="The adapter is scaled by alpha / rank.", show_default="2 * rank")]
    lora_target: Annotated[
        list[str] | None,
        _lora(
            metavar="NAME",
            help="Linear layer to adapt, such as q_proj; repeatable.",
            show_default="all but the output",
        ),
    ]
    load_in_4bit: Annotated[
        bool, _lora("--load-in-4bit", help="Quantise the frozen base in memory to 4 bits: QLoRA; needs bitsandbytes.")
    ]
    load_in_8bit: Annotated[bool, _lora("--load-in-8bit", help="Quantise it to 8 bits.")]
    retain_weight: Annotated[
        float, _data(help="Loss weight of a retain token (a --data token has 1), or of the retain term.")
    ]
    objective: Annotated[
        str,
        _objective(
            metavar="NAME",
            help="learn --data, or forget them and keep --retain: ascent, graddiff, kl, npo, simnpo or rmu.",
        ),
    ]
    beta: Annotated[
        float | None,
        _objective(help="Inverse temperature of npo and simnpo.", show_default="0.1 for npo, 4.5 for simnpo"),
    ]
    rmu_layer: Annotated[
        int | None,
        _objective(
            help="Decoder layer that rmu steers, the first is 0; it and the two before it are trained.",
            show_default="7 of 32 in proportion",
        ),
    ]
    rmu_steering: Annotated[
        float | None,
        _objective(help="Length of the random vector that rmu steers to.", show_default=f"{RMU_STEERING:g}"),
    ]
    validation_share: Annotated[
        float | None, _validation(help="Share of --data to hold out and validate on.", show_default="none")
    ]
    validation_steps: Annotated[
        int | None, _validation(help="Validate every this many steps.", show_default="at each epoch's end")
    ]
    patience: Annotated[
        int | None,
        _validation(help="Stop after this many evaluations without a lower validation loss.", show_default="never"),
    ]
    seed: SeedOption
    device: DeviceOption
    save_steps: Annotated[int | None, _run(help="Save a checkpoint every this many steps.", show_default="none")]
    resume: Annotated[bool, _run("--resume", help="Continue an interrupted run from its last checkpoint.")]
    report_to: Annotated[
        list[str] | None, _run(metavar="NAME", help="tensorboard, wandb, ...; repeatable.", show_default="none")
    ]
    trust_remote_code: TrustFlag
    apply_chat_template: ChatTemplateFlag
    system_prompt: SystemPromptOption


def _what_came(result: FinetuneResult, settings: TrainingSettings) -> str:
    if settings.learns:
        return f"final loss {result.final_loss:.4f}"
    return f"loss of the data from {result.first_loss:.4f} to {result.data_loss:.4f} by {settings.objective}"


def _show_forecast(found: TrainingForecast, settings: TrainingSettings, console: Console) -> None:
    most = "at most " if settings.until_loss is not None or settings.patience is not None else ""
    console.note(
        f"would train {found.trained:,} weights ({found.kind}) on {found.device}: {found.samples:,} samples, "
        f"{found.tokens:,} tokens an epoch, {most}{found.steps:,} steps"
    )
    if found.memory_bytes is None:
        console.note("the memory for a quantised model is not estimated")
    console.note(f"would write at least {found.write_bytes / 1e6:,.1f} MB")
    console.line(str(found.output_dir))
    console.result({**found.to_json(), "dry_run": True})


def _check_plot(plot: Path, output_dir: Path, model: str, data: Sequence[str], overwrite: bool) -> None:
    """Refuse a plot that could not be written, or would lie in the output, which has a record of its files."""
    check_plot(plot, overwrite, [model, *(parse_data(spec).name for spec in data)])
    if output_dir.absolute() in plot.absolute().parents:
        raise OutputError(f"the plot {plot} would lie in the output {output_dir}", "Name a file beside it.")


def command(
    model: ModelArgument,
    *,
    data: Annotated[
        list[str], _data(metavar="SPEC", help="FILE[:COLUMN] or ID[:CONFIG[:SPLIT[:COLUMN]]]; repeat to join several.")
    ],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", metavar="DIR", help="Folder to write.")],
    retain: Annotated[
        list[str] | None,
        _data(metavar="SPEC", help="Mix in or keep a data set, weighted by --retain-weight; repeatable."),
    ] = None,
    validation: Annotated[
        list[str] | None,
        _validation(metavar="SPEC", help="Validate on a data set, and publish the best step's weights; repeatable."),
    ] = None,
    plot: Annotated[
        Path | None,
        _run(metavar="FILE", help="Plot the learning curve to a .svg, .png or .pdf file.", show_default="none"),
    ] = None,
    overwrite: OverwriteFlag = False,
    dry_run: Annotated[
        bool, _run("--dry-run", help="Write nothing; print what would be done, its cost, and what would fail.")
    ] = False,
    output: OutputOptions,
    settings: Annotated[TrainingSettings, _TrainingOptions],
) -> None:
    """Fine-tune a model, or a LoRA adapter for it, on a text.

    Example: taskarith finetune microsoft/phi-1_5 --data forget.txt -o runs/forget

    Data are text files, rows (.jsonl, .json, .csv, .parquet), folders saved by datasets, and hub ids.

    Rows hold text, prompt and completion, question and answer, or messages; only answers are learned.

    The output is a folder that transformers or PEFT loads, with a record in taskarith.json.
    """
    if plot is not None:
        _check_plot(plot, output_dir, model, [*data, *(retain or ()), *(validation or ())], overwrite)
    check_inputs([model], [*data, *(retain or ()), *(validation or ())])
    from taskarith.checkpoints.team import leave_team
    from taskarith.training.finetune import finetune
    from taskarith.training.forecast import forecast_training

    with output.console() as console:
        texts: dict[str, Any] = {"retain": retain or (), "validation": validation or ()}
        options: dict[str, Any] = {"overwrite": overwrite, "settings": settings, "listener": console}
        if dry_run:
            _show_forecast(forecast_training(model, data, output_dir, **texts, **options), settings, console)
            leave_team()
            return
        result = finetune(model, data, output_dir, **texts, **options)
    leave_team()
    if result.best_step is not None:
        console.note(f"validation loss {result.validation_loss:.4f}, lowest after step {result.best_step}: published")
    if plot is not None and os.environ.get("RANK", "0") == "0":  # of several launched processes
        from taskarith.report.learning_curve import plot_learning_curve

        plot_learning_curve(result, plot, overwrite=overwrite)
        console.note(f"the learning curve is plotted in {plot}")
    kind = "model" if result.kind == "full" else "LoRA adapter"
    console.note(
        f"{kind}: {_what_came(result, settings)} after {result.steps} steps "
        f"({result.tokens:,} tokens, {result.seconds:.0f} s)"
    )
    console.line(str(result.output_dir))
    if settings.objective != "learn":  # the model has forgotten already
        console.next("eval", model, result.output_dir, "--data", f"forget={data[0]}")
    elif result.kind == "lora":
        console.next("apply", model, "--negate", result.output_dir, "--alpha", "1.0")
    else:
        console.next("extract", model, result.output_dir, "-o", f"{result.output_dir.name}.safetensors")
    console.result(result.to_json())
