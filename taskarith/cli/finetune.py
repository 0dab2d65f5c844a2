"""The command `finetune`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.common import (
    ChatTemplateFlag,
    ConfigFile,
    DeviceOption,
    JsonFlag,
    OverwriteFlag,
    QuietFlag,
    SeedOption,
    SystemPromptOption,
    TrustFlag,
)

__all__ = ["command"]

_DATA, _LORA, _TRAINING, _RUN = "Data", "LoRA", "Training", "Run"


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Folder, hub id (with @revision if need be), or GGUF.", show_default=False
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            metavar="SPEC",
            help="FILE[:COLUMN] or ID[:CONFIG[:SPLIT[:COLUMN]]]; repeat to join several.",
            show_default=False,
            rich_help_panel=_DATA,
        ),
    ],
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", metavar="DIR", help="Folder to write.", show_default=False)
    ],
    retain: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="Mix in a data set with another weight; repeatable.", rich_help_panel=_DATA),
    ] = None,
    retain_weight: Annotated[
        float, typer.Option(help="w in loss = mean over tokens of w * token loss; data has 1.", rich_help_panel=_DATA)
    ] = 1.0,
    block_size: Annotated[
        int, typer.Option(help="Tokens of a block of plain text, and the most of a row.", rich_help_panel=_DATA)
    ] = 256,
    apply_chat_template: ChatTemplateFlag = False,
    system_prompt: SystemPromptOption = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="Train a LoRA adapter instead of all weights.", rich_help_panel=_LORA)
    ] = False,
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapter.", rich_help_panel=_LORA)] = 16,
    lora_alpha: Annotated[
        float | None,
        typer.Option(help="The adapter is scaled by alpha / rank.", show_default="2 * rank", rich_help_panel=_LORA),
    ] = None,
    lora_target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Linear layer to adapt, such as q_proj; repeatable.",
            show_default="all but the output",
            rich_help_panel=_LORA,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Peak learning rate.", show_default="5e-5, or 5e-4 with --lora", rich_help_panel=_TRAINING),
    ] = None,
    num_train_epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the data; 3 by default, at most 30 with --until-loss.", rich_help_panel=_TRAINING
        ),
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(help="Optimizer steps; wins over epochs.", show_default="by epochs", rich_help_panel=_TRAINING),
    ] = None,
    until_loss: Annotated[
        float | None,
        typer.Option(
            help="End after the first epoch in which the mean loss of the data is at most this.",
            show_default="none",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    per_device_train_batch_size: Annotated[
        int, typer.Option(help="Samples of a batch on each device.", rich_help_panel=_TRAINING)
    ] = 8,
    gradient_accumulation_steps: Annotated[
        int, typer.Option(help="Batches of an optimizer step.", rich_help_panel=_TRAINING)
    ] = 1,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option("--gradient-checkpointing", help="Trade time for memory.", rich_help_panel=_TRAINING),
    ] = False,
    lr_scheduler_type: Annotated[
        str, typer.Option(metavar="NAME", help="linear, cosine, constant, ...", rich_help_panel=_TRAINING)
    ] = "linear",
    warmup_steps: Annotated[
        float, typer.Option(help="Steps of warmup; below 1 a share of all steps.", rich_help_panel=_TRAINING)
    ] = 0.0,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.", rich_help_panel=_TRAINING)] = 0.0,
    max_grad_norm: Annotated[
        float, typer.Option(help="Clip gradients to this norm; 0 does not clip.", rich_help_panel=_TRAINING)
    ] = 1.0,
    bf16: Annotated[
        bool | None,
        typer.Option(
            "--bf16/--no-bf16",
            help="bfloat16 autocast; weights stay float32.",
            show_default="where the device is good at it",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            metavar="DTYPE",
            help="Of the saved weights; a 16-bit one rounds most of the change away.",
            rich_help_panel=_TRAINING,
        ),
    ] = "float32",
    seed: SeedOption = 42,
    device: DeviceOption = "auto",
    save_steps: Annotated[
        int | None,
        typer.Option(help="Keep a checkpoint every so many steps.", show_default="none", rich_help_panel=_RUN),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on at the last checkpoint.", rich_help_panel=_RUN)
    ] = False,
    report_to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="tensorboard, wandb, ...; repeatable.", show_default="none", rich_help_panel=_RUN
        ),
    ] = None,
    overwrite: OverwriteFlag = False,
    config: ConfigFile = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    trust_remote_code: TrustFlag = False,
) -> None:
    """Fine-tune a model, or a LoRA adapter for it, on a text.

    Example: taskarith finetune microsoft/phi-1_5 --data forget.txt -o runs/forget

    Data are text files, rows (.jsonl, .json, .csv, .parquet), folders that datasets saved, and hub ids.

    Rows hold text, prompt and completion, question and answer, or messages; answers alone are learned.

    The output is a folder that transformers or PEFT loads, with a record in taskarith.json.
    """
    del config
    from taskarith.console import Console
    from taskarith.training.finetune import finetune

    console = Console(as_json=as_json, quiet=quiet)
    try:
        result = finetune(
            model,
            data,
            output_dir,
            retain=retain or (),
            retain_weight=retain_weight,
            lora=lora,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            lora_target=lora_target or (),
            block_size=block_size,
            apply_chat_template=apply_chat_template,
            system_prompt=system_prompt or "",
            learning_rate=learning_rate,
            num_train_epochs=num_train_epochs,
            max_steps=max_steps,
            until_loss=until_loss,
            per_device_train_batch_size=per_device_train_batch_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
            gradient_checkpointing=gradient_checkpointing,
            lr_scheduler_type=lr_scheduler_type,
            warmup_steps=warmup_steps,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            bf16=bf16,
            dtype=dtype,
            seed=seed,
            device=device,
            save_steps=save_steps,
            resume=resume,
            report_to=report_to or (),
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            listener=console,
        )
    finally:
        console.close()
    what = "model" if result.kind == "full" else "LoRA adapter"
    console.note(
        f"{what}: final loss {result.final_loss:.4f} after {result.steps} steps "
        f"({result.tokens:,} tokens, {result.seconds:.0f} s)"
    )
    console.line(str(result.output_dir))
    console.result(dataclasses.asdict(result) | {"output_dir": str(result.output_dir)})
