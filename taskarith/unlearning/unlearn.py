"""The verb `unlearn`: from a text to an edited model, and what shows that it is forgotten, by the other verbs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from taskarith.attacks.attack import attack
from taskarith.calls import listed
from taskarith.checkpoints.provenance import read_provenance, write_provenance
from taskarith.checkpoints.targets import check_apart, check_space
from taskarith.data.load import data_paths
from taskarith.edit.apply import apply
from taskarith.errors import DataError, OutputError
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.measurement import Measurement
from taskarith.progress import SILENT, Listener
from taskarith.report.attacks import plot_recovery
from taskarith.report.report import report
from taskarith.report.sweep import plot_sweep
from taskarith.sweeps.sweep import sweep
from taskarith.training.finetune import finetune
from taskarith.training.resume import last_checkpoint, working_folder
from taskarith.unlearning.call import Call
from taskarith.unlearning.findings import Choice, Known, read_choice, read_known
from taskarith.unlearning.look import check_call, choose_learning, look, missing, needed_space
from taskarith.unlearning.stages import Stages, read_stages, write_json
from taskarith.unlearning.task import ALPHAS, BUDGET, KEEP, QUICK_ALPHAS, QUICK_MEASUREMENT, Learning, Task
from taskarith.unlearning.task import MEASUREMENT as UNLEARNING
from taskarith.vectors.extract import extract

__all__ = ["UnlearnResult", "unlearn"]

KIND = "unlearning"
_UNKNOWN = Learning(lora=False, learning_rate=0.0, num_train_epochs=None, until_loss=None, batch_size=1)


@dataclass(frozen=True)
class UnlearnResult:
    """What became of a text.

    :param output_dir: Folder of the run.
    :param outcome: ``forgotten``, ``compromise`` (written, although no alpha meets the rule), ``not reached``,
        ``nothing to forget`` or ``planned``.
    :param alpha: Coefficient of the edited model; None without one.
    :param verdicts: What was found, each a sentence.
    :param missing: What a full proof lacks.
    :param edited: The edited model; None without one.
    :param report: The page; None for a dry run.
    :param commands: The commands of all stages.
    :param seconds: Duration of this call.
    """

    output_dir: Path
    outcome: str
    alpha: float | None
    verdicts: tuple[str, ...]
    missing: tuple[str, ...]
    edited: Path | None
    report: Path | None
    commands: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        paths = {name: value and str(value) for name, value in vars(self).items() if name in {"edited", "report"}}
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {**values, **paths, "output_dir": str(self.output_dir)}


def unlearn(
    model: str,
    forget: str,
    retain: str | Sequence[str],
    output_dir: str | Path = "unlearned",
    *,
    holdout: str | None = None,
    reference: str | None = None,
    base: str | None = None,
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
    retain = tuple(listed(retain))
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
    _check_folder(folder, [model, *filter(None, (reference, base)), *data_paths([forget, *retain, holdout])])
    sight = look(task, listener)
    learning, how = choose_learning(
        sight, lora=lora, learning_rate=learning_rate, num_train_epochs=num_train_epochs, device=device
    )
    task = replace(task, learning=learning)
    for line in (*sight.lines, f"learning: {how}", *(f"missing for a full proof: {one}" for one in missing(task))):
        listener.note(line)
    if dry_run:
        return _result(task, "planned", None, (), (), _planned(task), start)
    if not read_stages(folder):
        check_space(folder, needed_space(task, sight))
    folder.mkdir(parents=True, exist_ok=True)
    if read_provenance(folder) is None:
        write_provenance(folder, {"kind": KIND}, files=False)
    stages = Stages(folder, sight.fingerprints, len(_planned(task)), overwrite, listener)
    result = _Run(task, stages, listener, compromise=compromise).run(start)
    write_json(folder / "results.json", result.to_json())
    return result


@dataclass(frozen=True)
class _Indented:
    """Passes on what a stage says, set apart from what is said of the stages."""

    listener: Listener

    def progress(self, what: str, done: float, total: float) -> None:
        """Pass on progress."""
        self.listener.progress(what, done, total)

    def note(self, message: str) -> None:
        """Pass on a remark."""
        self.listener.note(f"    {message}")


@dataclass
class _Run:
    """A run in progress."""

    task: Task
    stages: Stages
    listener: Listener
    compromise: bool

    def run(self, start: float) -> UnlearnResult:
        """Go through the stages."""
        task, listener = self.task, self.listener
        known = self._measure_before()
        listener.note(f"loss of the text to forget, in nats a token: {known.sentence}")
        if known.is_shown is False:
            verdict = (
                "It is not shown that the model knows the text, so that there is nothing to forget. "
                f"Loss of the text: {known.sentence}."
            )
            return self._end("nothing to forget", None, [verdict], ["before"], start)
        self._learn("forget", "learn the text to forget")
        if task.keep:
            self._learn("retain", "learn the texts to keep")
        choice = self._sweep(known)
        alpha = choice.alpha
        if alpha is None and self.compromise:
            alpha = choice.compromise
        if not alpha:
            for row in choice.trade_off:
                listener.note("alpha {:g}: loss of the text to forget {:.2f}, of those to keep {:.2f}".format(*row))
            return self._end("not reached", None, [_unmet(choice, task)], ["before", "sweep"], start)
        self._do("write the edited model", task.apply(alpha), apply, after=("sweep", *self._vectors))
        edited = str(task.folder / "edited")
        self._do("measure the edited model", task.measure((task.model, edited), "after"), evaluate, after=("edited",))
        folders = ["sweep", "after", *self._attack()]
        verdicts = [] if choice.alpha else [_unmet(choice, task)]
        return self._end("forgotten" if choice.alpha else "compromise", alpha, verdicts, folders, start)

    @property
    def _vectors(self) -> tuple[str, ...]:
        return tuple(path.name for path in (self.task.vector, self.task.kept_vector) if path)

    def _measure_before(self) -> Known:
        task = self.task
        self._do("measure the model", task.measure((task.model,), "before"), evaluate)
        return read_known(task.folder / "before", task.model, task.reference, task.holdout)

    def _learn(self, name: str, what: str) -> None:
        """Learn texts and keep their vector: with an adapter that is it; else the difference, and no other weights."""
        learn, take = self.task.learn(name), self.task.extract(name)
        if self.task.learning.lora:
            self._do(what, learn, _finetune)
            return
        if not self.stages.is_done(take, (learn.name,)):
            self._do(what, learn, _finetune)
        else:
            self.stages.skip(what, learn)
        self._do(f"{what}: the vector", take, extract, after=(learn.name,))
        shutil.rmtree(learn.output, ignore_errors=True)  # the vector and its base give it back

    def _sweep(self, known: Known) -> Choice:
        task = self.task
        target = None if task.reference or task.budget is not None else known.level
        self._do("choose alpha", task.sweep(target), partial(sweep, draw=plot_sweep), after=self._vectors)
        return read_choice(task.folder / "sweep")

    def _attack(self) -> list[str]:
        """Attack the edited model; return the names of outputs."""
        try:
            self._do("attack the edited model", self.task.attack(), partial(attack, draw=plot_recovery), ("edited",))
        except DataError as error:
            self.listener.note(f"not attacked: {error.message}")
            return []
        return ["attack"]

    def _do(self, what: str, call: Call, verb: Any, after: tuple[str, ...] = ()) -> None:
        self.stages.run(what, call, partial(_call, verb, call, _Indented(self.listener)), after)

    def _end(
        self, outcome: str, alpha: float | None, verdicts: list[str], folders: list[str], start: float
    ) -> UnlearnResult:
        task = self.task
        title = f"Forgetting {Path(task.forget).name}"
        page = report(
            [task.folder / name for name in folders], task.folder / "report.html", title=title, overwrite=True
        )
        self.listener.note(f"report: {page.path}")
        found = (*verdicts, *page.verdicts)
        return _result(task, outcome, alpha, found, (page.path,), self.stages.commands, start)


def _finetune(model: str, data: list[str], output_dir: Path, **options: Any) -> object:
    """Fine-tune, going on from a checkpoint of a run that was stopped."""
    has_checkpoint = last_checkpoint(working_folder(output_dir)) is not None
    return finetune(model, data, output_dir, **options, resume=has_checkpoint)


def _call(verb: Any, call: Call, listener: Listener) -> None:
    options = {name: value for name, value in call.options.items() if value is not None and value is not False}
    if verb is extract:
        verb(*call.inputs, call.output, overwrite=True, listener=listener)
    elif verb is evaluate:
        data = options.pop("data")
        verb([*call.inputs], data, output_dir=call.output, overwrite=True, listener=listener, **options)
    else:
        positional = [options.pop(name) for name in ("data", "forget") if name in options and verb is not apply]
        verb(*call.inputs, *positional, output_dir=call.output, overwrite=True, listener=listener, **options)


def _planned(task: Task) -> list[str]:
    """Return the commands of all stages, as far as they are known before the first."""
    calls = [task.measure((task.model,), "before")]
    for name in ("forget", *(["retain"] if task.keep else [])):
        calls += [task.learn(name)] if task.learning.lora else [task.learn(name), task.extract(name)]
    calls += [task.sweep(None), task.apply(1.0)]
    calls += [task.measure((task.model, str(task.folder / "edited")), "after"), task.attack()]
    return [str(call) for call in calls]


def _unmet(choice: Choice, task: Task) -> str:
    reason = f"No alpha meets the rule: {choice.reason}."
    if task.reference:
        reason = reason.replace(task.reference, Path(task.reference).name)
    if choice.compromise is None:
        return reason
    return f"{reason} The best compromise is alpha {choice.compromise:g} (--compromise writes it)."


def _result(
    task: Task,
    outcome: str,
    alpha: float | None,
    verdicts: Sequence[str],
    pages: Sequence[Path],
    commands: Sequence[str],
    start: float,
) -> UnlearnResult:
    return UnlearnResult(
        output_dir=task.folder,
        outcome=outcome,
        alpha=alpha,
        verdicts=tuple(verdicts),
        missing=missing(task),
        edited=None if alpha is None else task.folder / "edited",
        report=next(iter(pages), None),
        commands=tuple(commands),
        seconds=time.perf_counter() - start,
    )


def _check_folder(folder: Path, inputs: Sequence[str]) -> None:
    """Refuse a folder that is not of a run, or that holds what is read."""
    check_apart(folder, inputs)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder", "Name another output.")
    record: Mapping[str, Any] | None = read_provenance(folder)
    if any(folder.iterdir()) and (record or {}).get("kind") != KIND:
        raise OutputError(f"{folder} holds something else than a run of unlearn", "Name another output.")
