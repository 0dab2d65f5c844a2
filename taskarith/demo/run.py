"""The script of the demo: the paper's experiment, with the library's own verbs (see README, "Reading the numbers")."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.checkpoints.provenance import read_provenance, write_provenance
from taskarith.checkpoints.publish import KEPT, check_target
from taskarith.demo.control import at_base_level, random_vector, recommend, share_lost
from taskarith.demo.replacing import LAST_FILE, bring_back, replacing
from taskarith.edit.apply import apply
from taskarith.errors import OutputError, TaskarithError
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.rows import Evaluation, row_name
from taskarith.evaluation.score import Number
from taskarith.progress import SILENT, Listener
from taskarith.report.plot import AlphaCurves, plot_alphas
from taskarith.training.finetune import finetune
from taskarith.vectors.extract import extract

__all__ = ["FULL", "QUICK", "DemoResult", "Scale", "run_demo"]

TEXTS = {"forgotten": "saga_1.txt", "aligned": "saga_2.txt", "irrelevant": "manual.txt"}
"""What each text is in the experiment, and its file beside this module."""

Scores = Mapping[str, Mapping[str, Number]]
"""Text, then name, to number."""


@dataclass(frozen=True)
class Scale:
    """How long and how finely the demo works.

    :param characters: Of each text that are used; None uses all.
    :param block_size: Tokens of a block.
    :param batch_size: Blocks of a step: one gives the most steps for the same work.
    :param epochs_all: Passes over all three texts.
    :param epochs_one: Passes over a single text, for its vector.
    :param learning_rate: Of full fine-tuning; LoRA takes 15 times as much.
    :param alphas: What the vector of the forgotten text is multiplied by, ascending, from 0 to 1.
    :param prompts: Continuations of each text.
    :param prompt_tokens: Tokens of a prompt.
    :param continuation_tokens: Tokens of a continuation.
    """

    characters: int | None = None
    block_size: int = 272  # each text is four blocks
    batch_size: int = 1
    epochs_all: int = 4
    epochs_one: int = 4
    learning_rate: float = 3e-4
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    prompts: int = 16
    prompt_tokens: int = 32
    continuation_tokens: int = 32


FULL = Scale()
QUICK = Scale(270, 80, 1, 3, 3, 6e-4, (0.0, 0.5, 1.0), 2, 12, 12)


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    :param output_dir: Folder with everything.
    :param base: Scores of the base by text.
    :param curve: Alpha, then text, to scores of the tuned model minus alpha times the forgotten text's vector.
    :param control: Whose vector was taken away at alpha 1, then text, to scores (no continuations).
    :param recommended: The least alpha with the forgotten text at the base's level; None if none of them is.
    :param lost: Share of the gain in loss that alpha 1 took from each text.
    :param commands: The same by hand.
    :param seconds: Duration.
    """

    output_dir: Path
    base: Scores
    curve: dict[float, Scores]
    control: dict[str, Scores]
    recommended: float | None
    lost: dict[str, float]
    commands: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as plain values of JSON."""
        return {
            "base": _values(self.base),
            "curve": [{"alpha": alpha, "scores": _values(scores)} for alpha, scores in self.curve.items()],
            "control": {whose: _values(scores) for whose, scores in self.control.items()},
            "recommended_alpha": self.recommended,
            "share_of_gain_lost_at_1": self.lost,
            "commands": list(self.commands),
            "seconds": self.seconds,
        }


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
    """Fine-tune a model on three texts, take one away again, and measure what became of all three.

    :param model: Folder, hub id or GGUF.
    :param output_dir: Folder for texts, models, vectors, plot and ``results.json``.
    :param lora: Learn with adapters instead of full fine-tuning.
    :param scale: How long and how finely.
    :param seed: Of training and of the random vector.
    :param device: Of training and evaluation.
    :param overwrite: Replace the folder of an earlier demo.
    :param listener: Told about every step.
    :raises OutputError: The folder exists and may not be replaced, or is not a demo's.
    """
    start, folder = time.perf_counter(), Path(output_dir)
    _check_folder(folder, overwrite, model)
    with replacing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_provenance(folder, {"kind": "demo"}, files=False)
        with _nothing_kept():
            return _demo(start, _Lab(model, folder, lora, scale, seed, device, listener))


@contextmanager
def _nothing_kept() -> Generator[None, None, None]:
    """Take back what a step that fails promises to keep: it goes with the folder."""
    try:
        yield
    except BaseException as error:
        error.__notes__ = []
        if isinstance(error, TaskarithError):
            error.hint = error.hint.replace(KEPT, "").rstrip()
        raise


def _demo(start: float, lab: _Lab) -> DemoResult:
    folder, scale = lab.folder, lab.scale
    tuned = lab.learn_all()
    vectors = {text: lab.learn_one(text) for text in TEXTS}
    lab.say("measuring the base, and the tuned model minus alpha times the vector of the forgotten text")
    base = lab.measure(lab.model)
    curve = lab.measure_minus(tuned, vectors["forgotten"], scale.alphas)
    curve = lab.refine(tuned, vectors["forgotten"], curve, base["forgotten"])
    recommended = recommend(list(curve), [scores["forgotten"] for scores in curve.values()], base["forgotten"])
    control = lab.control(tuned, vectors, curve)
    if recommended is not None:
        lab.say(f"writing the tuned model minus {recommended:g} times that vector")
        apply(str(tuned), negate=[str(vectors["forgotten"])], alpha=recommended, output_dir=folder / "edited")
    result = DemoResult(
        output_dir=folder,
        base=base,
        curve=curve,
        control=control,
        recommended=recommended,
        lost=share_lost(base, curve[0.0], curve[1.0]),
        commands=lab.commands(list(curve), recommended),
        seconds=time.perf_counter() - start,
    )
    _plot(result, folder)
    (folder / LAST_FILE).write_text(json.dumps(result.to_json(), indent=2) + "\n", encoding="utf-8")
    return result


def _check_folder(folder: Path, overwrite: bool, model: str) -> None:
    bring_back(folder)
    check_target(folder, overwrite, is_folder=True, inputs=[model])
    is_free = not folder.exists() or not any(folder.iterdir())
    if not is_free and (read_provenance(folder) or {}).get("kind") != "demo":
        raise OutputError(f"{folder} is not the folder of a demo", "Name another output, or empty it yourself.")


@dataclass(frozen=True)
class _Lab:
    """One demo at work: its settings, and its steps in the words of the library."""

    model: str
    folder: Path
    lora: bool
    scale: Scale
    seed: int
    device: str
    listener: Listener

    def say(self, what: str) -> None:
        self.listener.note(f"· {what}")

    def text(self, name: str) -> Path:
        """Copy a text into the folder, cut after a line where the scale wants less of it."""
        path = self.folder / "texts" / TEXTS[name]
        if not path.exists():
            whole = (Path(__file__).parent / "texts" / TEXTS[name]).read_text(encoding="utf-8")
            path.parent.mkdir(exist_ok=True)
            path.write_text(whole[: self.scale.characters], encoding="utf-8")
        return path

    def learn_all(self) -> Path:
        """Fine-tune on all three texts; with LoRA the adapter is added to the base, to have a model to edit."""
        self.say("fine-tuning on all three texts")
        if not self.lora:
            return self._finetune(list(TEXTS), "tuned", self.scale.epochs_all)
        adapter = self._finetune(list(TEXTS), "tuned-adapter", self.scale.epochs_all)
        return apply(self.model, add=[str(adapter)], output_dir=self.folder / "tuned").path

    def learn_one(self, name: str) -> Path:
        """Fine-tune the base on one text and return its vector: a file, or with LoRA the adapter folder."""
        self.say(f"fine-tuning the base on the {name} text alone: its task vector")
        learned = self._finetune([name], f"learned-{name}", self.scale.epochs_one)
        if self.lora:
            return learned
        vector = extract(self.model, str(learned), self.folder / f"{name}.safetensors").path
        shutil.rmtree(learned)  # base + vector gives it back
        return vector

    def measure(self, model: str) -> Scores:
        return self._evaluate(model, self.scale.prompts).scores.by_text[model]

    def measure_minus(
        self, tuned: Path, vector: Path, alphas: Sequence[float], prompts: int | None = None
    ) -> dict[float, Scores]:
        count = self.scale.prompts if prompts is None else prompts
        found = self._evaluate(str(tuned), count, negate=[str(vector)], alphas=alphas)
        return {alpha: found.scores.by_text[row_name(str(tuned), alpha)] for alpha in alphas}

    def refine(
        self, tuned: Path, vector: Path, curve: dict[float, Scores], base: Mapping[str, Number]
    ) -> dict[float, Scores]:
        """Look half-way between the least alpha at the base's level and the one before it."""
        alphas = sorted(curve)
        above = [alpha for alpha in alphas if not at_base_level(curve[alpha]["forgotten"], base)]
        first = next((alpha for alpha in alphas if alpha not in above), None)
        if first is None or not above or first == alphas[0]:
            return curve
        middle = round((alphas[alphas.index(first) - 1] + first) / 2, 6)
        more = curve | self.measure_minus(tuned, vector, [middle])
        return {alpha: more[alpha] for alpha in sorted(more)}

    def control(self, tuned: Path, vectors: Mapping[str, Path], curve: Mapping[float, Scores]) -> dict[str, Scores]:
        """Take each text's vector from the same tuned model, and a random one with the forgotten text's norms."""
        self.say("control: the tuned model minus the vector of each text in turn, and minus a random one")
        like = vectors["forgotten"]
        if self.lora:
            like = extract(self.model, str(like), self.folder / "forgotten.safetensors").path
        noise = self.folder / "random.safetensors"
        random_vector(like, noise, self.seed)
        found = {"forgotten": curve[1.0]}
        for whose, vector in (*list(vectors.items())[1:], ("random", noise)):
            found[whose] = self.measure_minus(tuned, vector, [1.0], prompts=0)[1.0]
        noise.unlink()
        return found

    def commands(self, alphas: Sequence[float], recommended: float | None) -> tuple[str, ...]:
        """Return the commands that do the same; the control is the same again with the other texts' vectors."""
        model = shlex.quote(self.model)
        files = {name: shlex.quote(str(self.folder / "texts" / file)) for name, file in TEXTS.items()}
        how = f"--block-size {self.scale.block_size} --learning-rate {self._rate:g}"
        how += (
            f" --per-device-train-batch-size {self.scale.batch_size} --seed {self.seed}{' --lora' if self.lora else ''}"
        )
        everything = " ".join(f"--data {file}" for file in files.values())
        named = " ".join(f"--data {name}={file}" for name, file in files.items())
        measured = f"--prompts {self.scale.prompts} --prompt-tokens {self.scale.prompt_tokens}"
        measured += f" --continuation-tokens {self.scale.continuation_tokens} --block-size {self.scale.block_size}"
        swept = ",".join(f"{alpha:g}" for alpha in alphas)
        one = self.scale.epochs_one
        lines = [
            f"taskarith finetune {model} {everything} {how} --num-train-epochs {self.scale.epochs_all} -o tuned",
            f"taskarith finetune {model} --data {files['forgotten']} {how} --num-train-epochs {one} -o learned",
        ]
        tuned, vector = "tuned", "forget.safetensors"
        if self.lora:
            lines[0] = lines[0].removesuffix("tuned") + "adapter"
            lines.append("taskarith apply --add adapter -o tuned")
            vector = "learned"
        else:
            lines.append(f"taskarith extract learned -o {vector}")
        lines.append(f"taskarith eval {model} {named} {measured}")
        lines.append(f"taskarith eval {tuned} --negate {vector} --alpha {swept} {named} {measured}")
        alpha = 1.0 if recommended is None else recommended
        lines.append(f"taskarith apply {tuned} --negate {vector} --alpha {alpha:g} -o edited")
        return tuple(lines)

    @property
    def _rate(self) -> float:
        return self.scale.learning_rate * (15 if self.lora else 1)

    def _finetune(self, names: Sequence[str], output: str, epochs: int) -> Path:
        return finetune(
            self.model,
            [str(self.text(name)) for name in names],
            self.folder / output,
            lora=self.lora,
            block_size=self.scale.block_size,
            learning_rate=self._rate,
            num_train_epochs=epochs,
            per_device_train_batch_size=self.scale.batch_size,
            seed=self.seed,
            device=self.device,
            listener=self.listener,
        ).output_dir

    def _evaluate(self, model: str, prompts: int, **edit: Any) -> Evaluation:
        return evaluate(
            [model],
            {name: str(self.text(name)) for name in TEXTS},
            prompts=prompts,
            block_size=self.scale.block_size,
            prompt_tokens=self.scale.prompt_tokens,
            continuation_tokens=self.scale.continuation_tokens,
            device=self.device,
            seed=self.seed,
            listener=self.listener,
            **edit,
        )


def _values(scores: Scores) -> dict[str, dict[str, Any]]:
    """Return the numbers without their intervals, which JSON can hold: an infinite perplexity is null."""
    return {text: {name: number.to_json()["value"] for name, number in of.items()} for text, of in scores.items()}


def _plot(result: DemoResult, folder: Path) -> None:
    scores = {text: [at[text] for at in result.curve.values()] for text in TEXTS}
    title = "A model that learned three texts, minus alpha times the vector of the forgotten one"
    plot_alphas(AlphaCurves(list(result.curve), scores, result.base, result.recommended, title), folder / "alpha")
