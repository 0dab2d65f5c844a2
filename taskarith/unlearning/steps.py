"""Stages done by the verbs of their calls, and the stages that learn a vector."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Any

from taskarith.progress import Listener
from taskarith.training.finetune import finetune
from taskarith.training.resume import last_checkpoint, working_folder
from taskarith.unlearning.call import Call
from taskarith.unlearning.stages import Stages
from taskarith.unlearning.task import Task
from taskarith.vectors.extract import extract

__all__ = ["Heard", "Indented", "do", "learn", "learn_vector"]

Heard = Callable[[Listener], Listener]


@dataclass(frozen=True)
class Indented:
    """Passes on what a stage says, set apart from what is said of the stages."""

    listener: Listener

    def progress(self, what: str, done: float, total: float) -> None:
        """Pass on progress."""
        self.listener.progress(what, done, total)

    def note(self, message: str) -> None:
        """Pass on a remark."""
        self.listener.note(indent(message, "    "))


def do(stages: Stages, what: str, call: Call, verb: Callable[..., object], after: tuple[str, ...] = ()) -> None:
    """Make the output of a call by its verb, unless it is there already; see ``Stages.run``."""
    stages.run(what, call, partial(_call, verb, call, Indented(stages.listener)), after)


def learn(stages: Stages, what: str, call: Call, heard: Heard | None = None) -> None:
    """Fine-tune, going on from a checkpoint of a run that was stopped.

    :param call: Of ``finetune``.
    :param heard: Makes, of the listener, the one that the training tells its progress; None for the listener itself.
    """
    do(stages, what, call, partial(_finetune, heard))


def learn_vector(
    stages: Stages,
    task: Task,
    name: str,
    texts: Sequence[str],
    what: str,
    heard: Heard | None = None,
) -> None:
    """Learn texts and keep their vector: with an adapter that is it; else the difference, and no other weights.

    :param task: How they are learned, on which model, and in which folder.
    :param name: Of the vector.
    :param texts: To learn.
    :param what: What the stage is for.
    :param heard: As for ``learn``.
    """
    call, take = task.learn(texts, task.learned(name)), task.extract(name)
    if task.learning.lora:
        learn(stages, what, call, heard)
        return
    stages.expect(call)
    stages.check(take, (call.name,))  # before anything is learned
    if stages.is_done(take, (call.name,)):
        stages.skip(what, call)
    else:
        learn(stages, what, call, heard)
    do(stages, f"{what}: the vector", take, extract, after=(call.name,))
    if stages.is_done(call):  # the vector and its base give it back; what somebody else put there stays
        shutil.rmtree(call.output)


def _finetune(heard: Heard | None, model: str, data: list[str], output_dir: Path, **options: Any) -> object:
    has_checkpoint = last_checkpoint(working_folder(output_dir)) is not None
    if heard is not None:
        options["listener"] = heard(options["listener"])
    return finetune(model, data, output_dir, **options, resume=has_checkpoint)


def _call(verb: Callable[..., object], call: Call, listener: Listener) -> None:
    options = {name: value for name, value in call.options.items() if value is not None and value is not False}
    if call.command == "extract":
        verb(*call.inputs, call.output, overwrite=True, listener=listener)
    elif call.command in {"eval", "relate"}:
        verb([*call.inputs], output_dir=call.output, overwrite=True, listener=listener, **options)
    else:
        positional = [options.pop(name) for name in ("data", "forget") if name in options]
        verb(*call.inputs, *positional, output_dir=call.output, overwrite=True, listener=listener, **options)
