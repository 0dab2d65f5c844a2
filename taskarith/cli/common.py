"""What every command shares: option types, the configuration file, and how failures end."""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from taskarith.cli.process import interruptible
from taskarith.errors import TaskarithError, UsageError, escaped_lines, name_some, readable
from taskarith.untrusted import MalformedError, parse_json, parse_yaml, read_text

if TYPE_CHECKING:
    from taskarith.console import Console
    from taskarith.evaluation.score import Scores
    from taskarith.report.tables import TableRows

__all__ = [
    "BatchSizeOption",
    "ChatTemplateFlag",
    "ConfigFile",
    "DeviceOption",
    "DtypeOption",
    "IgnoreBuffersFlag",
    "JsonFlag",
    "OverwriteFlag",
    "QuietFlag",
    "SeedOption",
    "SystemPromptOption",
    "TopOption",
    "TrustFlag",
    "config_option",
    "escape_logs",
    "guarded",
    "load_config",
    "parse_batch_size",
    "printable",
    "show_scores",
    "show_tables",
    "use_config",
]


_AGAIN = {
    **dict.fromkeys(
        ("apply", "extract", "combine"),
        "The same command starts anew, or goes on with what an earlier run of it has finished.",
    ),
    "finetune": "Nothing of this run is kept.",
}
"""What a command does that was interrupted before it had anything to keep, but not for the first time."""


def load_config(path: Path) -> dict[str, Any]:
    """Read a configuration file: a map of keys, with dashes, to values.

    :raises typer.BadParameter: It is not YAML, or not a map.
    """
    try:
        # the record of an edit may have a line for each of many tensors, for which a reader of YAML takes minutes
        values = (parse_json if path.suffix == ".json" else parse_yaml)(read_text(path)) or {}
    except MalformedError as error:
        raise typer.BadParameter(readable(f"cannot read {path}: {error}")) from error
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{path} must map option names to values, as in 'learning-rate: 2e-5'")
    return {str(key): value for key, value in values.items()}


def use_config(context: typer.Context, path: Path, given: Mapping[str, Any]) -> None:
    """Let values of options be the defaults of a command.

    :raises typer.BadParameter: A key is not an option, or a value is neither plain nor a list of plain ones.
    """
    known = {_key(parameter): parameter for parameter in context.command.params}
    values = {key.replace("_", "-"): value for key, value in given.items()}
    if unknown := sorted(values.keys() - known.keys() | values.keys() & {"config", "help"}):
        names = sorted(known.keys() - {"config", "help"})
        what = readable(f"{path} has unknown keys: {name_some(unknown)}")
        raise typer.BadParameter(f"{what}; known are {', '.join(names)}")
    defaults = dict(context.default_map or {})
    for key, value in values.items():
        many = getattr(known[key], "multiple", False) or known[key].nargs != 1
        if any(isinstance(one, dict | list) for one in (value if isinstance(value, list) and many else [value])):
            raise typer.BadParameter(f"{path}: {key} must be a plain value{' or a list of them' if many else ''}")
        wrapped = many and value is not None and not isinstance(value, list)
        defaults[str(known[key].name)] = [value] if wrapped else value
    context.default_map = defaults


def config_option(text: str, callback: Callable[..., Any]) -> Any:
    """Return the option --config with what it says and does."""
    return typer.Option(
        "--config", help=text, is_eager=True, callback=callback, exists=True, dir_okay=False, metavar="FILE.yaml"
    )


def _load_config(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None and not context.resilient_parsing:
        use_config(context, path, load_config(path))
    return path


def _key(parameter: Any) -> str:
    """Return the key of an option in a configuration file: its long name without dashes."""
    return next((text[2:] for text in parameter.opts if text.startswith("--")), str(parameter.name))


JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
IgnoreBuffersFlag = Annotated[
    bool,
    typer.Option("--ignore-buffers", help="Leave out buffers that only one side has, such as masks, and name them."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
TopOption = Annotated[int, typer.Option("--top", min=0, help="Rows of the table; --json has every tensor.")]
BatchSizeOption = Annotated[str, typer.Option("--batch-size", metavar="N|auto", help="Sequences at a time.")]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="auto, float32, bfloat16 or float16; auto is the files' own, on a CPU float32.",
    ),
]
ChatTemplateFlag = Annotated[
    bool,
    typer.Option("--apply-chat-template", help="Write rows of question and answer through the chat template."),
]
SystemPromptOption = Annotated[
    str | None,
    typer.Option("--system-prompt", metavar="TEXT", help="The first message of every chat.", show_default="none"),
]
TrustFlag = Annotated[bool, typer.Option("--trust-remote-code", help="Run the code that comes with a model.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda[:N] or mps.", metavar="DEVICE")]
ConfigFile = Annotated[
    Path | None,
    config_option("YAML file of option values; a flag or environment variable wins over it.", _load_config),
]


def parse_batch_size(text: str) -> int | Literal["auto"]:
    """Read ``auto`` or a number of sequences.

    :raises UsageError: It is neither.
    """
    if text == "auto":
        return "auto"
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch-size {text} is not a positive number", "Give a number, or auto.")
    return int(text)


def printable(text: str) -> str:
    """Return text from a file that nobody has vetted so that it can steer no terminal and be written as UTF-8."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def escape_logs() -> None:
    """Let libraries log what they quote of files without what a terminal would act on."""
    make = logging.getLogRecordFactory()

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        try:
            message = made.getMessage()
        except Exception:  # a library's own slip, which logging reports and goes on
            return made
        made.msg, made.args = escaped_lines(_COLOURS.sub("", message)), None
        return made

    logging.setLogRecordFactory(record)


def show_scores(scores: Scores, console: Console) -> None:
    """Print the tables of scores, and what is missing or does not compare as remarks."""
    from taskarith.report.scores import score_remarks, score_tables

    show_tables(score_tables(scores), console)
    for remark in score_remarks(scores):
        console.note(printable(remark))


def show_tables(tables: Sequence[TableRows], console: Console) -> None:
    """Print tables, an empty line between two."""
    for number, table in enumerate(tables):
        if number:
            console.line("")
        rows = [[printable(cell) for cell in row] for row in table.rows]
        console.table(printable(table.title), [printable(column) for column in table.columns], rows)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command: a failure that a user can act on becomes two lines and its exit code, Ctrl-C 130."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with interruptible():
                command(*args, **kwargs)
        except TaskarithError as error:
            _show(type(error)(error.message, " ".join([error.hint, *_notes(error)])))
            raise typer.Exit(error.exit_code) from error
        except OSError as error:  # a path that cannot be read or written, which no verb has named better
            where, what = error.filename or "a file", error.strerror or str(error)
            _show(TaskarithError(f"{where}: {what}", "Check the path, its permissions and the space left."))
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            verb = command.__module__.rpartition(".")[2]
            how = " ".join(_notes(error)) or _AGAIN.get(verb, "The same command starts anew.")
            _show(UsageError("interrupted", f"No unfinished output was published. {how}"))
            raise typer.Exit(130) from error

    _hide_variables(command, run)
    return run


def _notes(error: BaseException) -> list[str]:
    """Return what was noted on an exception's way: what is kept, and how to go on."""
    return list(getattr(error, "__notes__", ()))


def _show(error: TaskarithError) -> None:
    from taskarith.console import Console

    Console().error(error)


def _hide_variables(command: Callable[..., None], wrapper: Any) -> None:
    """Keep the environment variable of every option out of ``--help``; one sentence of the README names them all."""
    hints = get_type_hints(command, include_extras=True)
    for hint in hints.values():
        for option in getattr(hint, "__metadata__", ()):
            option.show_envvar = False
    signature = inspect.signature(command)
    parameters = [item.replace(annotation=hints[name]) for name, item in signature.parameters.items()]
    wrapper.__annotations__, wrapper.__signature__ = hints, signature.replace(parameters=parameters)
