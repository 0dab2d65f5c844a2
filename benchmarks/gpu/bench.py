"""What all parts of the benchmark share: folders, devices, models, and the time that is left."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.measure import Failure, Measure, measure
from benchmarks.models import hidden_size, write_models

__all__ = ["PROGRAM", "Bench", "Device"]

PROGRAM = (sys.executable, "-m", "taskarith")
_NUMBERS = " ".join(f"{number} steps down the road, {number * 7 % 101} more." for number in range(8_000))


@dataclass(frozen=True)
class Device:
    """Where something is calculated.

    :param name: As ``--device`` takes it.
    :param title: As the driver or the system has it.
    """

    name: str
    title: str


@dataclass
class Bench:
    """The folder, the devices and the time of a run.

    :param work: Takes outputs.
    :param kept: Takes models, which the next run finds there.
    :param devices: The CPU first.
    :param parameters: Of the large model.
    :param deadline: When to begin nothing more, by ``time.monotonic``.
    :param left_out: What was not measured, and why.
    :param has_failed: Whether a test failed.
    """

    work: Path
    kept: Path
    devices: Sequence[Device]
    parameters: float
    deadline: float
    left_out: list[str] = field(default_factory=list)
    has_failed: bool = False

    @property
    def gpu(self) -> Device | None:
        """The GPU, if there is one."""
        return next((device for device in self.devices if device.name != "cpu"), None)

    def has_time(self, what: str, seconds: float = 30) -> bool:
        """Tell whether there is time for something that takes so many seconds; note it if not."""
        if time.monotonic() + seconds < self.deadline:
            return True
        self.left_out.append(f"{what}: no time was left")
        return False

    def models(self, finetunes: int = 2, *, matrices: bool = False) -> list[Path]:
        """Return a base and fine-tunes of it, with a tokenizer of bytes: of the large model, or of two of its layers.

        :param matrices: Two layers and 2,048 tokens, for what decomposes each matrix.
        """
        folder, hidden = self.kept / ("matrices" if matrices else "large"), hidden_size(self.parameters)
        found = [folder / name for name in ("base", *(f"ft{number + 1}" for number in range(finetunes)))]
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            small = {"layers": 2, "vocabulary": 2048} if matrices else {}
            for model in write_models(folder, hidden, 2, **small):
                byte_tokenizer().save_pretrained(model)
            (folder / "whole").touch()
        return found

    @property
    def alone(self) -> Device:
        """The device of what is not measured on both: the GPU, if there is one."""
        return self.devices[-1]

    @property
    def text(self) -> Path:
        """A text of about 300,000 tokens of one byte."""
        path = self.work / "text.txt"
        if not path.exists():
            path.write_text(_NUMBERS, encoding="utf-8")
        return path

    def run(self, name: str, arguments: Sequence[str]) -> Measure | str:
        """Run a command of taskarith, and return what it took, or its last words if it failed.

        :param name: Of its output.
        :param arguments: Without the output.
        """
        output, log = self.work / name, self.work / f"{name}.log"
        try:
            return measure([*PROGRAM, *arguments, "-o", str(output), "--overwrite", "--quiet"], output, log, {})
        except Failure as failure:
            return str(failure)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows bytes alone, which needs no file of anybody."""
    alphabet = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
