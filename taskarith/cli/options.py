"""The options that several commands share: each is written once here, with its help.

An option is the type of a parameter of a command. Options that travel together make one value, which a command takes
as one parameter and passes on as it is: a class names the options, and ``Annotated`` the value that they make. Their
defaults are those of the value.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from taskarith.cli.config import ConfigFile, RecipeFile
from taskarith.edit.recipe import Recipe
from taskarith.errors import UsageError
from taskarith.evaluation.measurement import Measurement
from taskarith.merging.methods import METHODS, users
from taskarith.models.runtime import Runtime
from taskarith.relations.inputs import TestInputs

if TYPE_CHECKING:
    from taskarith.console import Console

__all__ = [
    "AddOption",
    "BaseOption",
    "ChatTemplateFlag",
    "DensityOption",
    "DeviceOption",
    "IgnoreBuffersFlag",
    "InputGroup",
    "MeasurementGroup",
    "MeasurementOptions",
    "MethodOption",
    "ModelArgument",
    "NegateOption",
    "OutputFileOption",
    "OutputOptions",
    "OverwriteFlag",
    "ProtectOption",
    "RankOption",
    "RecipeOutputOptions",
    "ResultsFolderOption",
    "RuntimeGroup",
    "RuntimeOptions",
    "ScaleOption",
    "SeedOption",
    "SystemPromptOption",
    "TopOption",
    "TrustFlag",
    "VectorDtypeOption",
    "VectorsArgument",
    "VocabOption",
    "WeightsOption",
    "under",
]

EDIT, METHOD, MEASURE, MODEL = "Edit", "Merge method", "Measure", "Model"
"""Headings of options in the help of a command."""


def under(heading: str) -> Callable[..., Any]:
    """Return what makes options that the help of a command shows under a heading."""
    return partial(typer.Option, rich_help_panel=heading)


_edit, _method, _measure, _model = under(EDIT), under(METHOD), under(MEASURE), under(MODEL)

_VECTOR = "V[@@BASE][:C]"


# --- the edit --------------------------------------------------------------------------------------------------------

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, hub id (ID@REVISION) or GGUF file.")]
AddOption = Annotated[
    list[str] | None,
    _edit(
        "--add",
        metavar=_VECTOR,
        help="Add a task vector, LoRA folder or fine-tuned model (of BASE), times C; repeatable.",
    ),
]
NegateOption = Annotated[
    list[str] | None,
    _edit("--negate", metavar=_VECTOR, help="Subtract one; repeatable."),
]
ScaleOption = Annotated[
    list[str] | None,
    _edit(
        "--scale",
        metavar="SELECTOR=FACTOR",
        help="Multiply the coefficients of some tensors, as 'mlp=0.5', 'layers.0-11=0', 'layers=0..1'; repeatable.",
    ),
]
ProtectOption = Annotated[
    list[str] | None,
    _method("--protect", metavar="V", help="Vector of what is to be kept, for --method project; repeatable."),
]
WeightsOption = Annotated[
    str | None,
    _method("--weights", metavar="FILE", help="A weight for each parameter, from importance, for --method perta."),
]
MethodOption = Annotated[str, _method("--method", help=f"Merge method: {', '.join(METHODS)}.")]
DensityOption = Annotated[
    float | None,
    _method("--density", help=f"Share of each delta that is kept: {users('density')}."),
]
RankOption = Annotated[int | None, _method("--rank", help=f"Singular values that are kept: {users('rank')}.")]
VocabOption = Annotated[
    str | None,
    typer.Option(
        "--vocab",
        metavar="intersection|union",
        help="Where vocabularies differ in size, use the rows that all have; union adds those of new tokens.",
    ),
]
IgnoreBuffersFlag = Annotated[
    bool,
    typer.Option("--ignore-buffers", help="Leave out buffers that only one side has, such as masks, and name them."),
]

# --- outputs ---------------------------------------------------------------------------------------------------------

OutputFileOption = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE", help="The .safetensors file to write, or a folder for a LoRA adapter."
    ),
]
ResultsFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--output-dir", "-o", metavar="DIR", help="Folder for results and records.", show_default="none is written"
    ),
]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
VectorDtypeOption = Annotated[
    str, typer.Option("--dtype", help="Dtype of the deltas: float32, float64 (exact), bfloat16 or float16.")
]
TopOption = Annotated[int, typer.Option("--top", min=0, help="Rows of the table; --json has every tensor.")]


@dataclass(frozen=True)
class OutputOptions:
    """How a command is configured and how it prints."""

    config: ConfigFile = None
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")] = False

    @contextmanager
    def console(self) -> Generator[Console]:
        """Give the console that a verb reports to; afterwards its bars are gone, and it prints what came out."""
        from taskarith.console import Console

        console = Console(as_json=self.as_json, quiet=self.quiet)
        try:
            yield console
        finally:
            console.close()


@dataclass(frozen=True)
class RecipeOutputOptions(OutputOptions):
    """As ``OutputOptions``, where the configuration may be a recipe."""

    config: RecipeFile = None

    @property
    def recipe(self) -> Recipe:
        """The recipe that --config reads; without one it is empty."""
        return self.config if isinstance(self.config, Recipe) else Recipe({})


# --- models ----------------------------------------------------------------------------------------------------------

DtypeOption = Annotated[
    str,
    _model(
        "--dtype",
        metavar="DTYPE",
        help="auto, float32, bfloat16 or float16; auto is that of the files, on a CPU float32.",
    ),
]
DeviceOption = Annotated[str, _model("--device", metavar="DEVICE", help="auto, cpu, cuda[:N] or mps.")]
TrustFlag = Annotated[bool, _model("--trust-remote-code", help="Run the code that comes with a model.")]


class RuntimeOptions:
    """The options that make a ``Runtime``."""

    dtype: DtypeOption
    device: DeviceOption
    trust_remote_code: TrustFlag


RuntimeGroup = Annotated[Runtime, RuntimeOptions]

# --- measurements ----------------------------------------------------------------------------------------------------

ChatTemplateFlag = Annotated[
    bool,
    _measure("--apply-chat-template", help="Write questions and answers through the chat template."),
]
SystemPromptOption = Annotated[
    str,
    _measure("--system-prompt", metavar="TEXT", help="First message of every chat.", show_default="none"),
]


def _check_seed(seed: int | None) -> int | None:
    if seed is not None and not 0 <= seed < 1 << 32:  # what numpy's and torch's generators all take
        raise typer.BadParameter(f"{seed} is not a number from 0 to {(1 << 32) - 1}")
    return seed


SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.", callback=_check_seed)]


def _parse_batch_size(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch-size {text} is not a positive number", "Give a number, or auto.")
    return int(text)


BatchSizeOption = Annotated[
    str, _measure("--batch-size", metavar="N|auto", help="Sequences at a time."), _parse_batch_size
]


class MeasurementOptions:
    """The options that make a ``Measurement``."""

    block_size: Annotated[int, _measure(help="Tokens of the blocks in which losses are measured.")]
    prompts: Annotated[int, _measure(help="Greedy continuations per text; 0 for losses only.")]
    prompt_tokens: Annotated[int, _measure(help="Tokens of a prompt from plain text.")]
    continuation_tokens: Annotated[int, _measure(help="Tokens of a continuation.")]
    batch_size: BatchSizeOption
    apply_chat_template: ChatTemplateFlag
    system_prompt: SystemPromptOption
    seed: SeedOption


MeasurementGroup = Annotated[Measurement, MeasurementOptions]

# --- relations -------------------------------------------------------------------------------------------------------

VectorsArgument = Annotated[
    list[str],
    typer.Argument(metavar="V", help="Task vectors, LoRA folders or fine-tuned models; of relate, two or more."),
]
BaseOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Base of the vectors.", show_default="the one they record"),
]


class InputOptions:
    """The options that make ``TestInputs``."""

    block_size: Annotated[int, _measure(help="Tokens of a test input.")]
    inputs: Annotated[int, _measure(help="Test inputs of each task, at most.")]
    apply_chat_template: ChatTemplateFlag
    system_prompt: SystemPromptOption


InputGroup = Annotated[TestInputs, InputOptions]
