"""The verb `unlearn`: from a text to an edited model, and what shows that it is forgotten, by the other verbs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from taskarith.calls import listed, named
from taskarith.checkpoints.targets import check_space
from taskarith.checkpoints.team import launched_team
from taskarith.data.load import data_paths
from taskarith.errors import UsageError
from taskarith.evaluation.measurement import Measurement
from taskarith.progress import SILENT, Listener
from taskarith.unlearning.folder import begin_folder, check_folder
from taskarith.unlearning.look import Sight, check_call, choose_learning, fingerprints, look, missing, needed_space
from taskarith.unlearning.result import UnlearnResult
from taskarith.unlearning.run import Run, make_result, planned
from taskarith.unlearning.stages import Stages, read_stages, write_json
from taskarith.unlearning.task import ALPHAS, BUDGET, KEEP, KIND, QUICK_ALPHAS, QUICK_MEASUREMENT, Learning, Task
from taskarith.unlearning.task import MEASUREMENT as UNLEARNING

__all__ = ["UnlearnResult", "forget_text", "unlearn"]

_UNKNOWN = Learning(lora=False, learning_rate=0.0, num_train_epochs=None, until_loss=None, batch_size=1)


def unlearn(
    model: str | Path,
    forget: str | Path,
    retain: str | Path | Sequence[str | Path],
    output_dir: str | Path = "unlearned",
    *,
    holdout: str | Path | None = None,
    reference: str | Path | None = None,
    base: str | Path | None = None,
    lora: bool | None = None,
    learning_rate: float | None = None,
    num_train_epochs: float | None = None,
    keep: float = KEEP,
    budget: float | None = None,
    alphas: Sequence[float] | None = None,
    compromise: bool = False,
    quick: bool = False,
    dry_run: bool = False,
    measurement: Measurement | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> UnlearnResult:
    """Make a model forget a text, and measure what shows it.

    Measures the model, learns the text and those to keep for their vectors, chooses alpha, writes the edited model,
    measures and attacks it, and writes a report. Every stage is a call of another verb with an output in the folder of
    the run; what is there already, made of the same inputs with the same settings, is not made again.

    The rule that chooses alpha is, in this order: ``budget``, if given; the loss and ROUGE-L of ``reference``; the loss
    of ``holdout`` under the model; a budget of 0.1 nats. See ``sweep``.

    :param model: The model that knows the text: folder, hub id or GGUF file.
    :param forget: The text to forget, as in ``load_data``.
    :param retain: Texts to keep.
    :param output_dir: Folder of the run.
    :param holdout: Text of the same kind as ``forget`` that the model never saw.
    :param reference: A model that never saw the text to forget.
    :param base: The model that ``model`` was made from: vectors are learned on it. None to learn them on ``model``.
    :param lora: Learn by adapters; None to do so if full training does not fit into memory.
    :param learning_rate: Peak learning rate; None for one by the model's width.
    :param num_train_epochs: Passes over each text; None for as many as a loss of 0.5 needs, and 3 without a base.
    :param keep: Share of the vector of the texts to keep that is added; 0 to learn none.
    :param budget: Allowed rise of the kept texts' mean loss, in nats.
    :param alphas: Coefficients to try.
    :param compromise: Write the best compromise if no alpha meets the rule.
    :param quick: Fewer coefficients, prompts and attacks.
    :param dry_run: Look at what is given, and tell what would be done.
    :param measurement: How texts are measured: blocks of 64 tokens and 16 prompts by default.
    :param device: Device of training and measuring.
    :param trust_remote_code: Run Python code that comes with a model.
    :param overwrite: Make again what is there, but of other inputs or with other settings.
    :param listener: Is told each stage and its command.
    :raises UsageError: A value is out of range, or two contradict each other.
    :raises DataError: A text is missing, too short, or the same as another.
    :raises OutputError: The folder holds something else, or what was made with other settings.
    """
    start, folder = time.perf_counter(), Path(output_dir)
    if launched_team().size > 1:
        raise UsageError(
            "unlearn runs in one process", "Start it without a launcher; the commands that it prints can be launched."
        )
    model, forget, retain = str(model), str(forget), tuple(listed(retain))
    holdout, reference, base = named(holdout), named(reference), named(base)
    chosen = tuple(alphas) if alphas is not None else QUICK_ALPHAS if quick else ALPHAS
    check_call(model, retain, reference, base, keep, chosen)
    task = Task(
        model=model,
        forget=forget,
        retain=retain,
        folder=folder,
        holdout=holdout,
        reference=reference,
        base=base,
        learning=_UNKNOWN,
        keep=keep,
        budget=BUDGET if budget is None and reference is None and holdout is None else budget,
        alphas=tuple(sorted({0.0, *chosen})),
        quick=quick,
        measurement=measurement or (QUICK_MEASUREMENT if quick else UNLEARNING),
        device=device,
        trust_remote_code=trust_remote_code,
    )
    check_folder(folder, KIND, [model, *filter(None, (reference, base)), *data_paths([forget, *retain, holdout])])
    sight = look(task, listener)
    learning, how = choose_learning(
        sight, lora=lora, learning_rate=learning_rate, num_train_epochs=num_train_epochs, device=device
    )
    task = replace(task, learning=learning)
    for line in (*sight.lines, f"learning: {how}", *(f"missing for a full proof: {one}" for one in missing(task))):
        listener.note(line)
    if dry_run:
        return make_result(task, "planned", None, (), (), planned(task), start)
    return forget_text(task, sight, compromise=compromise, overwrite=overwrite, start=start, listener=listener)


def forget_text(
    task: Task, sight: Sight, *, compromise: bool, overwrite: bool, start: float, listener: Listener
) -> UnlearnResult:
    """Carry a task out, from where an earlier run of it stopped.

    :param task: What is to be forgotten, and how; its folder has been checked.
    :param sight: What is given.
    :param compromise: As for ``unlearn``.
    :param overwrite: As for ``unlearn``.
    :param start: When it began, by ``time.perf_counter``.
    :param listener: Is told each stage and its command.
    """
    folder = task.folder
    if not read_stages(folder):
        check_space(folder, needed_space(task, sight))
    begin_folder(folder, KIND)
    stages = Stages(folder, sight.fingerprints, lambda: fingerprints(task), len(planned(task)), overwrite, listener)
    sizes = {spec: sum(len(one.text) for one in sight.data[name].documents) for name, spec in task.data.items()}
    result = Run(task, stages, listener, compromise=compromise, sizes=sizes).run(start)
    write_json(folder / "results.json", result.to_json())
    return result
