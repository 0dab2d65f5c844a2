"""A task of unlearning, and a listener that keeps what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from taskarith.unlearning.task import Learning, Task

FULL = Learning(lora=False, learning_rate=3e-4, num_train_epochs=None, until_loss=0.5, batch_size=1)
TASK = Task(
    model="tuned",
    forget="f.txt",
    retain=("r.txt", "s.txt"),
    folder=Path("run"),
    holdout=None,
    reference=None,
    base=None,
    learning=FULL,
    keep=0.4,
    budget=0.1,
    alphas=(0.0, 1.0),
    quick=False,
)


@dataclass
class Notes:
    told: list[str] = field(default_factory=list)

    def progress(self, *_):
        pass

    def note(self, message):
        self.told.append(message)

    @property
    def begun(self):
        """Stages that were not there."""
        return [one.splitlines()[0] for one in self.told if " of " in one and "\n  taskarith" in one]
