"""A model that learned three texts, and a task vector of each of them, as `taskarith demo` makes them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import taskarith
from taskarith.demo.scale import FULL
from taskarith.progress import SILENT, Listener

__all__ = ["CHOICE", "REPORT", "ROLES", "Lesson", "Pupil", "learn", "shortened"]

_HERE = Path(__file__).parent
_DEMO = Path(taskarith.__file__).parent / "demo/texts"

ROLES = ("forgotten", "aligned", "irrelevant")
"""What each text is: one that is to be forgotten, one of the same kind, and one that has nothing to do with either."""

CHOICE = {"forgotten": _DEMO / "saga_1.txt", "aligned": _DEMO / "saga_2.txt", "irrelevant": _DEMO / "manual.txt"}
"""The texts of the demo: on these an operator is chosen."""

REPORT = {
    "forgotten": _HERE.parent / "demo/saga_3.txt",
    "aligned": _DEMO / "saga_1.txt",
    "irrelevant": _HERE / "orchard.txt",
}
"""Other ones, no text in the same role: on these it is reported."""

_DONE = "seconds.json"


@dataclass(frozen=True)
class Lesson:
    """What is learned, and how: the settings are the demo's.

    :param texts: File of each role.
    :param seed: Of training.
    :param lora: Learn with adapters instead of full fine-tuning.
    :param block_size: Tokens of a block.
    :param epochs: Passes over the texts.
    """

    texts: Mapping[str, Path]
    seed: int
    lora: bool = False
    block_size: int = FULL.block_size
    epochs: int = FULL.epochs

    @property
    def name(self) -> str:
        """A name for its folder."""
        return f"{'lora' if self.lora else 'full'}-{self.texts['forgotten'].stem}-{self.seed}"

    @property
    def data(self) -> dict[str, str]:
        """The test set of each role."""
        return {role: str(path) for role, path in self.texts.items()}


@dataclass(frozen=True)
class Pupil:
    """What came of it.

    :param lesson: What was learned.
    :param base: The model before.
    :param tuned: The model that learned all texts.
    :param vectors: The task vector of each text alone, of the same base.
    :param seconds: Of the processor, by role, that training that vector took.
    """

    lesson: Lesson
    base: str
    tuned: str
    vectors: Mapping[str, str]
    seconds: Mapping[str, float]


def shortened(lesson: Lesson, folder: Path) -> Lesson:
    """Return the lesson with the first 1,000 characters of each text, in blocks half as long: a quarter of the work.

    :param folder: For the texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {role: folder / f"{path.stem}-short.txt" for role, path in lesson.texts.items()}
    for role, path in lesson.texts.items():
        texts[role].write_text(path.read_text("utf-8")[:1000].rpartition(".")[0] + ".\n", "utf-8")
    return replace(lesson, texts=texts, block_size=lesson.block_size // 2)


def learn(base: str, lesson: Lesson, folder: Path, listener: Listener = SILENT) -> Pupil:
    """Fine-tune the base on all texts and on each alone; what an earlier run finished is taken as it is.

    :param base: Folder, hub id or GGUF.
    :param lesson: What to learn.
    :param folder: For models and vectors; what an interrupted run left in it goes.
    :param listener: Told about training.
    """
    vectors = {role: folder / (f"learned-{role}" if lesson.lora else f"{role}.safetensors") for role in lesson.texts}
    done, seconds = folder / _DONE, dict[str, float]()
    if not done.exists():
        listener.note(f"· fine-tuning on the texts of {lesson.name}, together and one by one")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if lesson.lora:
            _finetune(base, lesson, list(lesson.texts), folder / "adapter", listener)
            taskarith.apply(base, add=[str(folder / "adapter")], output_dir=folder / "tuned")
        else:
            _finetune(base, lesson, list(lesson.texts), folder / "tuned", listener)
        for role, vector in vectors.items():
            learned, start = folder / f"learned-{role}", time.process_time()
            _finetune(base, lesson, [role], learned, listener)
            if not lesson.lora:
                taskarith.extract(base, str(learned), vector)
                shutil.rmtree(learned)  # base + vector gives it back
            seconds[role] = time.process_time() - start
        done.write_text(json.dumps(seconds) + "\n", encoding="utf-8")
    paths = {role: str(vector) for role, vector in vectors.items()}
    return Pupil(lesson, base, str(folder / "tuned"), paths, json.loads(done.read_text(encoding="utf-8")))


def _finetune(base: str, lesson: Lesson, roles: list[str], output: Path, listener: Listener) -> None:
    taskarith.finetune(
        base,
        [lesson.data[role] for role in roles],
        output,
        lora=lesson.lora,
        block_size=lesson.block_size,
        learning_rate=FULL.learning_rate * (15 if lesson.lora else 1),
        num_train_epochs=lesson.epochs,
        per_device_train_batch_size=FULL.batch_size,
        seed=lesson.seed,
        listener=listener,
    )
