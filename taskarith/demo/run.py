"""The script of the demo: the paper's experiment, with the library's own verbs."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.checkpoints.provenance import read_provenance, write_provenance
from taskarith.checkpoints.publish import KEPT, check_target
from taskarith.demo.control import share_lost
from taskarith.demo.laboratory import Laboratory
from taskarith.demo.replacing import LAST_FILE, bring_back, replacing
from taskarith.demo.scale import FULL, QUICK, TEXTS, Scale, Scores
from taskarith.edit.apply import apply
from taskarith.errors import OutputError, TaskarithError
from taskarith.evaluation.score import tidy_row
from taskarith.progress import SILENT, Listener
from taskarith.report.plot import AlphaCurves, plot_alphas
from taskarith.report.sweep import sweep_remarks
from taskarith.tidy import TidyResult, TidyRow

__all__ = ["FULL", "QUICK", "TEXTS", "DemoResult", "Scale", "run_demo"]


@dataclass(frozen=True, repr=False)
class DemoResult(TidyResult):
    """The result of the demo.

    :param output_dir: Folder with everything.
    :param base: Scores of the base by text.
    :param curve: Scores of the tuned model minus alpha times the forgotten text's vector, by alpha and text.
    :param control: Scores after subtracting another vector at alpha 1, by vector and text (no continuations).
    :param recommended: The alpha that `taskarith sweep` recommends with the base as reference, or None.
    :param remarks: Its reasons, and how much of the text remains.
    :param lost: Share of the loss improvement that alpha 1 removed from each text.
    :param commands: The equivalent commands.
    :param seconds: Duration.
    """

    output_dir: Path
    base: Scores
    curve: dict[float, Scores]
    control: dict[str, Scores]
    recommended: float | None
    remarks: tuple[str, ...]
    lost: dict[str, float]
    commands: tuple[str, ...]
    seconds: float

    def _brief(self) -> dict[str, object]:
        return {"output_dir": self.output_dir, "recommended": self.recommended, "lost": self.lost}

    def tidy(self) -> list[TidyRow]:
        """Return every number: of the base, of each alpha, and of each other vector that was subtracted."""
        rows = {"base": self.base, **{f"alpha {alpha:g}": scores for alpha, scores in self.curve.items()}}
        rows |= {f"minus {name}": scores for name, scores in self.control.items()}
        return [
            tidy_row(row, text, name, number)
            for row, scores in rows.items()
            for text, numbers in scores.items()
            for name, number in numbers.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as plain JSON values."""
        return {
            "base": _values(self.base),
            "curve": [{"alpha": alpha, "scores": _values(scores)} for alpha, scores in self.curve.items()],
            "control": {name: _values(scores) for name, scores in self.control.items()},
            "recommended_alpha": self.recommended,
            "remarks": list(self.remarks),
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
    """Fine-tune a model on three texts, make it forget one, and measure all three.

    :param model: Folder, hub id or GGUF file.
    :param output_dir: Folder for texts, models, vectors, plot and ``results.json``.
    :param lora: Train LoRA adapters instead of full fine-tuning.
    :param scale: Size of the demo.
    :param seed: Seed of training and of the random vector.
    :param device: Device of training and evaluation.
    :param overwrite: Replace the folder of an earlier demo.
    :param listener: Receives notes on every step.
    :raises OutputError: The folder exists and may not be replaced, or is not a demo's.
    """
    start, folder = time.perf_counter(), Path(output_dir)
    _check_folder(folder, overwrite, model)
    with replacing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_provenance(folder, {"kind": "demo"}, files=False)
        with _nothing_kept():
            return _demo(start, Laboratory(model, folder, lora, scale, seed, device, listener))


@contextmanager
def _nothing_kept() -> Generator[None, None, None]:
    """Drop a failed step's promises of kept files, which are removed with the folder."""
    try:
        yield
    except BaseException as error:
        error.__notes__ = []
        if isinstance(error, TaskarithError):
            error.hint = error.hint.replace(KEPT, "").rstrip()
        raise


def _demo(start: float, lab: Laboratory) -> DemoResult:
    folder = lab.folder
    tuned = lab.learn_all()
    vectors = {text: lab.learn_one(text) for text in TEXTS}
    lab.say("measuring the base, and the tuned model minus alpha times the vector of the forgotten text")
    chosen = lab.sweep(tuned, vectors["forgotten"])
    base = chosen.scores.by_text[lab.model]
    curve: dict[float, Scores] = {row.alpha: chosen.scores.by_text[row.name] for row in chosen.rows}
    control = lab.control(tuned, vectors, curve)
    if chosen.alpha is not None:
        lab.say(f"writing the tuned model minus {chosen.alpha:g} times that vector")
        apply(str(tuned), negate=[str(vectors["forgotten"])], alpha=chosen.alpha, output_dir=folder / "edited")
    result = DemoResult(
        output_dir=folder,
        base=base,
        curve=curve,
        control=control,
        recommended=chosen.alpha,
        remarks=tuple(remark.replace(lab.model, "the base") for remark in sweep_remarks(chosen)),
        lost=share_lost(base, curve[0.0], curve[1.0]),
        commands=lab.commands(chosen.alpha),
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
        raise OutputError(
            f"{folder} is not the folder of a demo", "Choose another output, or empty the folder yourself."
        )


def _values(scores: Scores) -> dict[str, dict[str, Any]]:
    """Return the numbers without intervals as plain JSON values; an infinite perplexity is null."""
    return {text: {name: number.to_json()["value"] for name, number in of.items()} for text, of in scores.items()}


def _plot(result: DemoResult, folder: Path) -> None:
    scores = {text: [at[text] for at in result.curve.values()] for text in TEXTS}
    title = "A model that learned three texts, minus alpha times the vector of the forgotten one"
    plot_alphas(AlphaCurves(list(result.curve), scores, result.base, result.recommended, title), folder / "alpha")
