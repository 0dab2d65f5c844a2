"""The demo: a model that learns three texts, `unlearn` of one of them, and a control with other vectors."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from taskarith.checkpoints.resolve import resolve_model
from taskarith.demo.control import random_vector, share_lost
from taskarith.demo.result import DemoResult
from taskarith.demo.scale import FULL, TEXTS, Scale, Scores, write_texts
from taskarith.edit.apply import apply
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.read_records import read_tables
from taskarith.evaluation.run import row_name
from taskarith.evaluation.score import make_scores
from taskarith.progress import SILENT, Listener
from taskarith.report.plot import AlphaCurves, plot_alphas
from taskarith.unlearning.call import Call
from taskarith.unlearning.folder import begin_folder, check_folder
from taskarith.unlearning.look import fingerprints, look
from taskarith.unlearning.result import UnlearnResult
from taskarith.unlearning.stages import Stages, write_json
from taskarith.unlearning.steps import Indented, do, learn, learn_vector
from taskarith.unlearning.task import KIND, Task
from taskarith.unlearning.unlearn import forget_text
from taskarith.vectors.extract import extract

__all__ = ["run_demo"]


def run_demo(
    model: str,
    output_dir: str | Path,
    *,
    lora: bool = False,
    scale: Scale = FULL,
    seed: int = 42,
    device: str = "auto",
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> DemoResult:
    """Fine-tune a model on three texts, make it forget one by ``unlearn``, and subtract other vectors as a control.

    The same call goes on after a stop, and makes nothing again that is there.

    :param model: Folder, hub id or GGUF file.
    :param output_dir: Folder for texts, models, vectors, plot and ``results.json``.
    :param lora: Train LoRA adapters instead of full fine-tuning.
    :param scale: Size of the demo.
    :param seed: Seed of training and of the random vector.
    :param device: Device of training and evaluation.
    :param overwrite: Make again what an earlier demo made with other settings.
    :param listener: Is told each stage and its command.
    :raises OutputError: The folder is not a demo's, or holds what was made with other settings.
    """
    start, folder = time.perf_counter(), Path(output_dir)
    check_folder(folder, "demo", [model])
    resolve_model(model, listener)
    begin_folder(folder, "demo")
    texts = write_texts(folder / "texts", scale.characters, overwrite=overwrite)
    forgotten, *kept = texts.values()
    task = Task(
        model=str(folder / "tuned"),
        forget=forgotten,
        retain=tuple(kept),
        folder=folder / "unlearned",
        holdout=None,
        reference=model,
        base=model,
        learning=scale.learning(lora),
        keep=0.0,
        budget=None,
        alphas=scale.alphas,
        quick=True,
        measurement=replace(scale.measurement, seed=seed),
        device=device,
    )
    source = replace(task, model=model, base=None, reference=None)
    count = 7 if lora else 8
    stages = Stages(folder, fingerprints(source), lambda: fingerprints(source), count, overwrite, listener)
    return _Demo(model, folder, task, texts, stages, listener).run(start, overwrite)


@dataclass
class _Demo:
    """A demo in progress.

    :param base: The model that learns.
    :param folder: Of the demo.
    :param task: What ``unlearn`` does.
    :param texts: Path of each text by its role.
    :param stages: Those that ``unlearn`` does not have.
    :param listener: Is told each stage and its command.
    """

    base: str
    folder: Path
    task: Task
    texts: dict[str, str]
    stages: Stages
    listener: Listener

    def run(self, start: float, overwrite: bool) -> DemoResult:
        """Go through the stages."""
        task, inner = self.task, Indented(self.listener)
        self._learn_all()
        commands = tuple(self.stages.commands)
        self.listener.note(f"· unlearn, into {task.folder}")
        check_folder(task.folder, KIND, [task.model, self.base, *self.texts.values()])
        unlearned = forget_text(
            task, look(task, inner), compromise=False, overwrite=overwrite, start=time.perf_counter(), listener=inner
        )
        base, curve = self._scores(unlearned)
        is_shown = 1.0 in curve
        result = DemoResult(
            output_dir=self.folder,
            base=base,
            curve=curve,
            control={"forgotten": curve[1.0], **self._control()} if is_shown else {},
            unlearned=unlearned,
            lost=share_lost(base, curve[0.0], curve[1.0]) if is_shown else {},
            commands=(*commands, *unlearned.commands),
            seconds=time.perf_counter() - start,
        )
        if is_shown:
            _plot(result)
        write_json(self.folder / "results.json", result.to_json())
        return result

    def _learn_all(self) -> None:
        """Fine-tune on all three texts; a LoRA adapter is merged into the base, to have a model to edit."""
        lora, what = self.task.learning.lora, "learn all three texts"
        call = self._outer.learn(list(self.texts.values()), "tuned-adapter" if lora else "tuned")
        learn(self.stages, what, call)
        if lora:
            merge = Call("apply", (self.base,), self.folder / "tuned", {"add": [str(call.output)]})
            do(self.stages, f"{what}: merge the adapter", merge, apply, after=(call.name,))

    def _control(self) -> dict[str, Scores]:
        """Subtract the vector of each other text from the tuned model, and a random one with the forgotten's norms."""
        found, outer = {}, self._outer
        for role, text in list(self.texts.items())[1:]:
            learn_vector(self.stages, outer, role, [text], f"control: learn the {role} text")
            found[role] = self._subtract(role, outer.vector(role))
        noise = self.folder / "random.safetensors"
        if not self.stages.is_done(self._measuring("random", noise), ("tuned",)):
            like = self.task.vector("forget")
            if self.task.learning.lora:
                like = extract(self.base, str(like), noise, overwrite=True).path
            random_vector(like, noise, self.task.measurement.seed)
        found["random"] = self._subtract("random", noise)
        noise.unlink(missing_ok=True)
        return found

    def _subtract(self, name: str, vector: Path) -> Scores:
        call = self._measuring(name, vector)
        learned = ("tuned", vector.name) if name in self.texts else ("tuned",)
        do(self.stages, f"control: measure the tuned model minus the {name} vector", call, evaluate, after=learned)
        return self._read(call.output)[row_name(self.task.model, 1.0)]

    def _measuring(self, name: str, vector: Path) -> Call:
        """Return the call that measures the tuned model minus a vector."""
        call = self._outer.measure((self.task.model,), f"minus-{name}")
        return replace(call, options={**call.options, "negate": [str(vector)], "alphas": (1.0,)})

    @property
    def _outer(self) -> Task:
        """The same learning in the demo's folder, and measuring of losses alone."""
        losses = replace(self.task.measurement, prompts=0)
        return replace(self.task, folder=self.folder, reference=None, measurement=losses)

    def _scores(self, unlearned: UnlearnResult) -> tuple[Scores, dict[float, Scores]]:
        """Return the scores of the base, and by alpha: of the sweep, if there was something to forget."""
        is_swept = any(command.startswith("taskarith sweep ") for command in unlearned.commands)
        rows, model = self._read(self.task.folder / ("sweep" if is_swept else "before")), self.task.model
        if not is_swept:
            return rows[self.base], {0.0: rows[model]}
        return rows[self.base], {alpha: rows[row_name(model, alpha)] for alpha in self.task.alphas}

    def _read(self, folder: Path) -> dict[str, Scores]:
        """Return the scores of a measurement by model, and by the roles of the texts."""
        found = make_scores({table.model: table for table in read_tables(folder)}, {})
        roles = dict(zip(self.task.data, self.texts, strict=True))
        return {row: {roles[text]: of for text, of in texts.items()} for row, texts in found.by_text.items()}


def _plot(result: DemoResult) -> None:
    scores = {text: [at[text] for at in result.curve.values()] for text in TEXTS}
    title = "A model that learned three texts, minus alpha times the vector of the forgotten one"
    curves = AlphaCurves(list(result.curve), scores, result.base, result.unlearned.alpha, title)
    plot_alphas(curves, result.output_dir / "alpha")
