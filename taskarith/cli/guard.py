"""The wrapper of every command: expands groups of options, and turns a failure into two lines and an exit code."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import typer

from taskarith.cli.process import interruptible
from taskarith.errors import TaskarithError, UsageError

__all__ = ["FAULT", "guarded", "show_unprintable"]


_RERUN = {
    **dict.fromkeys(
        ("apply", "extract", "combine"),
        "The same command starts over, or continues from what an earlier run finished.",
    ),
    **dict.fromkeys(("demo", "unlearn"), "The same command goes on from the last stage."),
    "finetune": "Nothing of this run was kept.",
}
"""What running an interrupted command again does, where the interrupt does not say so itself."""


FAULT = "This is a fault in taskarith."
"""Begins the hint of an error that no code expected."""

_SHARED = {"apply", "attack", "eval", "finetune", "importance", "ood", "relate", "sweep"}
"""Commands that all launched processes run together; the first runs any other alone."""


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command: a failure that a user can act on prints two lines and exits with its code, Ctrl-C with 130.

    A parameter whose type is a dataclass becomes one option per field; with ``Annotated[Dataclass, Options]``, one per
    field that the class ``Options`` annotates.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: group for name, hint in hints.items() if (group := _group(hint))}
    is_shared = command.__module__.rpartition(".")[2] in _SHARED

    @functools.wraps(command)
    def run(**values: Any) -> None:
        if not is_shared and os.environ.get("RANK", "0") != "0":
            return
        with_traceback = bool(values.get("verbose") or os.environ.get("TASKARITH_DEBUG"))
        try:
            with interruptible(), _explaining(with_traceback):
                _check_folder()
                made = {name: group.make(values) for name, group in groups.items()}
                command(**values, **made)
        except TaskarithError as error:
            _show(type(error)(error.message, " ".join([error.hint, *_notes(error)])))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            verb = command.__module__.rpartition(".")[2]
            how = " ".join(_notes(error)) or _RERUN.get(verb, "The same command starts over.")
            _show(UsageError("interrupted", f"No unfinished output was published. {how}"))
            raise typer.Exit(130) from error

    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        own = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        parameters += groups[name].parameters if name in groups else [own]
    _hide_variables(parameters)
    wrapper: Any = run
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    wrapper.__signature__ = inspect.Signature(parameters)
    return run


@contextmanager
def _explaining(with_traceback: bool) -> Generator[None]:
    """Print the traceback of an error where it is wanted, and turn one that nobody expected into one of ours."""
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as error:  # whatever it is, a user reads two lines
        if with_traceback:
            traceback.print_exc()
        if isinstance(error, TaskarithError):
            raise
        ours = TaskarithError(*_explained(error))
        for note in _notes(error):
            ours.add_note(note)
        raise ours from error


def _explained(error: Exception) -> tuple[str, str]:
    """Return what is said of an error that is not one of ours, and a hint."""
    if isinstance(error, OSError):  # a path that cannot be read or written, and no verb said so in better words
        path, problem = error.filename or "a file", error.strerror or str(error)
        return f"{path}: {problem}", "Check the path, its permissions and the free disk space."
    if _is_out_of_memory(error):
        return "memory ran out", (
            "Give smaller batches or blocks, --dtype bfloat16, or use a machine with more memory."
        )
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"unexpected {type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})",
        f"{FAULT} Please report it, with what taskarith env prints, and this command with --verbose.",
    )


def _is_out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from taskarith.models.memory import is_out_of_memory

    return is_out_of_memory(error)


class _Group:
    """The options of a parameter whose type is a dataclass.

    :param kind: The dataclass.
    :param options: Names and annotates the fields that are options; it may give them other defaults.
    """

    def __init__(self, kind: Any, options: Any) -> None:
        self._kind = kind
        defaults = {field.name: field.default for field in fields(kind)} | vars(options)
        self.parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_shown(defaults[name]), annotation=hint)
            for name, hint in get_type_hints(options, include_extras=True).items()
        ]

    def make(self, values: dict[str, Any]) -> Any:
        """Remove this group's options from the values of a command, and return the dataclass made of them."""
        given = {}
        for parameter in self.parameters:
            value = values.pop(parameter.name)
            for convert in filter(callable, parameter.annotation.__metadata__):
                value = convert(value)
            if value is not None:
                given[parameter.name] = value
        return self._kind(**given)


def _group(hint: Any) -> _Group | None:
    """Return the group of a parameter whose type is a dataclass, or None."""
    if is_dataclass(hint):
        return _Group(hint, hint)
    kind = getattr(hint, "__origin__", None)
    return _Group(kind, hint.__metadata__[0]) if is_dataclass(kind) else None


def _shown(default: Any) -> Any:
    """Return the default that ``--help`` shows: none where it is empty."""
    return None if default in ("", ()) else default


def _check_folder() -> None:
    """Refuse to run in a deleted folder, where every relative path fails and some libraries abort."""
    try:
        Path.cwd()
    except OSError as error:
        raise TaskarithError("the current folder no longer exists", "Change to a folder that exists: cd ~") from error


def show_unprintable(error: OSError) -> None:
    """Report that stdout cannot be written, and keep the interpreter from trying again at exit."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    _show(TaskarithError(f"cannot print: {error.strerror or error}", "Redirect the output to a disk with free space."))


def _notes(error: BaseException) -> list[str]:
    """Return the notes added to an exception: what was kept, and how to continue."""
    return list(getattr(error, "__notes__", ()))


def _show(error: TaskarithError) -> None:
    from taskarith.checkpoints.team import is_first_to_fail
    from taskarith.console import Console

    if is_first_to_fail():
        Console().error(error)


def _hide_variables(parameters: list[inspect.Parameter]) -> None:
    """Hide environment variables from ``--help``; one sentence of the reference describes them all."""
    for parameter in parameters:
        for option in getattr(parameter.annotation, "__metadata__", ()):
            if hasattr(option, "show_envvar"):
                option.show_envvar = False
