"""The texts of the demo, and its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from taskarith.errors import OutputError
from taskarith.evaluation.measurement import Measurement
from taskarith.evaluation.score import Number
from taskarith.unlearning.task import Learning

__all__ = ["FULL", "QUICK", "TEXTS", "Scale", "Scores", "write_texts"]

TEXTS = {"forgotten": "saga_1.txt", "aligned": "saga_2.txt", "irrelevant": "manual.txt"}
"""Role of each text in the experiment, and its file."""

Scores = Mapping[str, Mapping[str, Number]]
"""Numbers by text and name."""


@dataclass(frozen=True)
class Scale:
    """The size of the demo.

    :param characters: Characters of each text to use; None for all.
    :param block_size: Tokens per training block.
    :param batch_size: Blocks per step; 1 gives the most steps for the same work.
    :param epochs: Epochs on all three texts, and on a single text for its vector.
    :param learning_rate: Learning rate of full fine-tuning; LoRA uses 15 times as much.
    :param alphas: Coefficients of the forgotten text's vector, ascending, including 0 and 1.
    :param measurement: How texts are measured: intervals need more blocks than training.
    """

    characters: int | None
    block_size: int
    batch_size: int
    epochs: int
    learning_rate: float
    alphas: tuple[float, ...]
    measurement: Measurement

    def learning(self, lora: bool) -> Learning:
        """Return how texts are learned, by an adapter or by all weights."""
        return Learning(
            lora=lora,
            learning_rate=self.learning_rate * (15 if lora else 1),
            num_train_epochs=self.epochs,
            until_loss=None,
            batch_size=self.batch_size,
            block_size=self.block_size,
        )


FULL = Scale(
    characters=None,
    block_size=272,  # each text is four blocks
    batch_size=1,
    epochs=4,
    learning_rate=3e-4,
    alphas=(0.0, 0.25, 0.5, 0.75, 0.875, 1.0),
    measurement=Measurement(block_size=68, continuation_tokens=32),
)
QUICK = Scale(
    characters=800,
    block_size=48,  # each text is about four blocks
    batch_size=2,
    epochs=5,
    learning_rate=6e-4,
    alphas=(0.0, 0.5, 0.8, 1.0),
    measurement=Measurement(block_size=24, prompts=6, prompt_tokens=12, continuation_tokens=12),
)


def write_texts(folder: Path, characters: int | None, *, overwrite: bool) -> dict[str, str]:
    """Copy the texts into a folder, cut to a length; return their paths by role.

    :param folder: Where; it is made if it is not there.
    :param characters: Of each text; None for all.
    :param overwrite: Replace texts of another length.
    :raises OutputError: Another text is there, and may not be replaced.
    """
    folder.mkdir(exist_ok=True)
    for name in TEXTS.values():
        path = folder / name
        text = (Path(__file__).parent / "texts" / name).read_text(encoding="utf-8")[:characters].encode()
        is_there = path.exists()
        if is_there and path.read_bytes() == text:
            continue
        if is_there and not overwrite:
            raise OutputError(
                f"{path} is of a demo of another size", "Name another output, or have it made again with --overwrite."
            )
        path.write_bytes(text)
    return {role: str(folder / name) for role, name in TEXTS.items()}
