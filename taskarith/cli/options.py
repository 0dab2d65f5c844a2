"""Options that several commands share, each written once with its help.

An option is the type of a command's parameter. Options that belong together are one parameter: of
``Annotated[Value, Options]``, ``Value`` is the dataclass that the command receives, with its defaults, and ``Options``
declares the options that fill it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from taskarith.cli.config import ConfigFile
from taskarith.errors import UsageError
from taskarith.evaluation.measurement import Measurement
from taskarith.merging.methods import METHODS, PARAMETERS, Method, parse_method, users
from taskarith.models.runtime import Runtime
from taskarith.relations.inputs import TestInputs

if TYPE_CHECKING:
    from taskarith.console import Console

__all__ = [
    "BaseOption",
    "ChatTemplateFlag",
    "DeviceMapOption",
    "DeviceOption",
    "DryRunFlag",
    "IgnoreBuffersFlag",
    "InputGroup",
    "LensOption",
    "MeasurementGroup",
    "MeasurementOptions",
    "Merging",
    "MergingOptions",
    "ModelArgument",
    "OutputFileOption",
    "OutputOptions",
    "OverwriteFlag",
    "ResultsGroup",
    "RuntimeGroup",
    "RuntimeOptions",
    "SeedOption",
    "SystemPromptOption",
    "TopOption",
    "TrustFlag",
    "VectorDtypeOption",
    "VectorGroup",
    "VectorsArgument",
    "VocabOption",
    "under",
]

EDIT, METHOD, MEASURE, MODEL = "Edit", "Merge method", "Measure", "Model"
"""Headings of options in the help of a command."""


def under(heading: str) -> Callable[..., Any]:
    """Return ``typer.Option`` for options shown under a heading of the help."""
    return partial(typer.Option, rich_help_panel=heading)


_edit, _method, _measure, _model = under(EDIT), under(METHOD), under(MEASURE), under(MODEL)

_VECTOR = "V[@@BASE][:C]"


# --- the edit --------------------------------------------------------------------------------------------------------

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, hub id (ID@REVISION) or GGUF file.")]
VocabOption = Annotated[
    str | None,
    typer.Option(
        "--vocab",
        metavar="intersection|union",
        help="For vocabularies of different sizes: use the rows that all have, or (union) also those of new tokens.",
    ),
]
IgnoreBuffersFlag = Annotated[
    bool,
    typer.Option("--ignore-buffers", help="Leave out buffers that only one side has, such as masks, and list them."),
]


@dataclass(frozen=True)
class Vectors:
    """The vectors of an edit, by the names that the verbs give them."""

    add: Sequence[str] = ()
    negate: Sequence[str] = ()
    scale: Sequence[str] = ()


class VectorOptions:
    """The options that make ``Vectors``."""

    add: Annotated[
        list[str] | None,
        _edit(
            metavar=_VECTOR, help="Add a task vector, LoRA folder or fine-tuned model (of BASE), times C; repeatable."
        ),
    ]
    negate: Annotated[
        list[str] | None, _edit(metavar=_VECTOR, help="Subtract a vector, written as for --add; repeatable.")
    ]
    scale: Annotated[
        list[str] | None,
        _edit(
            metavar="SELECTOR=FACTOR",
            help="Multiply the coefficients of some tensors ('mlp=0.5', 'layers.0-11=0', 'layers=0..1'); repeatable.",
        ),
    ]


VectorGroup = Annotated[Vectors, VectorOptions]


@dataclass(frozen=True)
class Merging(Method):
    """A merge method as its options give it, by the name ``method``, and what it looks at beside the vectors."""

    method: str = "linear"
    protect: Sequence[str] = ()
    weights: str | None = None

    def keywords(self) -> dict[str, Any]:
        """Return it by the names that the verbs give it.

        :raises UsageError: As ``parse_method`` does.
        """
        method = parse_method(self.method, **{name: getattr(self, name) for name in PARAMETERS})
        return {"method": method, "protect": self.protect, "weights": self.weights}


class MergingOptions:
    """The options that make ``Merging`` wherever vectors are merged."""

    method: Annotated[str, _method(help=f"Merge method: {', '.join(METHODS)}.")]
    protect: Annotated[
        list[str] | None, _method(metavar="V", help="Vector of a task to keep, for --method project; repeatable.")
    ]
    weights: Annotated[
        str | None, _method(metavar="FILE", help="Weights of all parameters, from importance, for --method perta.")
    ]
    density: Annotated[float | None, _method(help=f"Share of each delta to keep: {users('density')}.")]
    rank: Annotated[int | None, _method(help=f"Singular values to keep: {users('rank')}.")]


# --- outputs ---------------------------------------------------------------------------------------------------------

OutputFileOption = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE", help="The .safetensors file to write, or a folder for a LoRA adapter."
    ),
]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
DryRunFlag = Annotated[
    bool, typer.Option("--dry-run", help="Write nothing; print what would be done, its cost, and what would fail.")
]


@dataclass(frozen=True)
class Results:
    """Where results and records go, by the names that the verbs give it."""

    output_dir: Path | None = None
    overwrite: bool = False


class ResultsOptions:
    """The options that make ``Results``."""

    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", "-o", metavar="DIR", help="Folder for results and records.", show_default="none is written"
        ),
    ]
    overwrite: OverwriteFlag


ResultsGroup = Annotated[Results, ResultsOptions]
VectorDtypeOption = Annotated[
    str, typer.Option("--dtype", help="Dtype of the deltas: float32, float64 (exact), bfloat16 or float16.")
]
TopOption = Annotated[int, typer.Option("--top", min=0, help="Rows of the table; --json lists every tensor.")]


@dataclass(frozen=True)
class OutputOptions:
    """Options of every command: its configuration and how it prints."""

    config: ConfigFile = None
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the traceback of an error, too.")] = False

    @contextmanager
    def console(self) -> Generator[Console]:
        """Yield the console that a verb reports to, and remove its progress bars afterwards."""
        from taskarith.console import Console

        console = Console(as_json=self.as_json, quiet=self.quiet)
        try:
            yield console
        finally:
            console.close()


# --- models ----------------------------------------------------------------------------------------------------------

DtypeOption = Annotated[
    str,
    _model(
        "--dtype",
        metavar="DTYPE",
        help="auto, float32, bfloat16 or float16; auto is the dtype of the files, on a CPU float32.",
    ),
]
DeviceOption = Annotated[str, _model("--device", metavar="DEVICE", help="auto, cpu, cuda[:N] or mps.")]
DeviceMapOption = Annotated[
    str | None,
    _model(
        "--device-map",
        metavar="auto|balanced|...",
        help="Spread a model larger than one GPU over all of them, as transformers does.",
        show_default="one device",
    ),
]
TrustFlag = Annotated[bool, _model("--trust-remote-code", help="Run Python code that comes with a model.")]


class RuntimeOptions:
    """Options of a ``Runtime``."""

    dtype: DtypeOption
    device: DeviceOption
    device_map: DeviceMapOption
    trust_remote_code: TrustFlag


RuntimeGroup = Annotated[Runtime, RuntimeOptions]

# --- measurements ----------------------------------------------------------------------------------------------------

ChatTemplateFlag = Annotated[
    bool,
    _measure("--apply-chat-template", help="Format questions and answers with the chat template."),
]
SystemPromptOption = Annotated[
    str,
    _measure("--system-prompt", metavar="TEXT", help="System message of every chat.", show_default="none"),
]

LensOption = Annotated[
    int, _measure(metavar="N", help="First samples of each text to read at every layer (logit lens); 0 for none.")
]


def _check_seed(seed: int | None) -> int | None:
    if seed is not None and not 0 <= seed < 1 << 32:  # the range that generators of numpy and torch share
        raise typer.BadParameter(f"{seed} is not a number from 0 to {(1 << 32) - 1}")
    return seed


SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.", callback=_check_seed)]


def _parse_batch_size(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch-size {text} is not a positive integer", "Give a positive integer, or auto.")
    return int(text)


class MeasurementOptions:
    """Options of a ``Measurement``."""

    block_size: Annotated[int, _measure(help="Tokens per block in which losses are measured.")]
    prompts: Annotated[int, _measure(help="Greedy continuations per text; 0 for losses only.")]
    prompt_tokens: Annotated[int, _measure(help="Prompt length for plain text, in tokens.")]
    continuation_tokens: Annotated[int, _measure(help="Continuation length, in tokens.")]
    batch_size: Annotated[str, _measure(metavar="N|auto", help="Sequences per batch."), _parse_batch_size]
    apply_chat_template: ChatTemplateFlag
    system_prompt: SystemPromptOption
    seed: SeedOption


MeasurementGroup = Annotated[Measurement, MeasurementOptions]

# --- relations -------------------------------------------------------------------------------------------------------

VectorsArgument = Annotated[
    list[str],
    typer.Argument(metavar="V", help="Task vectors, LoRA folders or fine-tuned models; relate needs two or more."),
]
BaseOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Base of the vectors.", show_default="the one they record"),
]


class InputOptions:
    """Options of ``TestInputs``."""

    block_size: Annotated[int, _measure(help="Test input length, in tokens.")]
    inputs: Annotated[int, _measure(help="Maximum number of test inputs per task.")]
    apply_chat_template: ChatTemplateFlag
    system_prompt: SystemPromptOption


InputGroup = Annotated[TestInputs, InputOptions]
