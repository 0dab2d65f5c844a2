"""A task of unlearning, a run of it, and a listener that keeps what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tiny

import taskarith
from taskarith.checkpoints.provenance import write_provenance
from taskarith.unlearning.task import KIND, Learning, Task

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


TEXT = "the harbour engine drank the borrowed winter"


def make_run(folder, base):
    """Return a folder as a run of unlearn leaves it, with a stage that was stopped; nothing is trained."""
    tuned, run = tiny.save_model(folder / "tuned", nudge_of=base, seed=1), folder / "run"
    (folder / "forget.txt").write_text(TEXT)
    run.mkdir()
    write_provenance(run, {"kind": KIND}, files=False)
    vector = taskarith.extract(base, tuned, run / "forget.safetensors").path
    taskarith.apply(tuned, negate=[str(vector)], output_dir=run / "edited")
    data = {"forget": {"spec": str(folder / "forget.txt"), "fingerprint": "0"}}
    for name in ("before", "after"):
        (run / name).mkdir()
        (run / name / "records.jsonl").write_text(f'{{"prompt": "{TEXT}"}}\n')
        (run / name / "results.json").write_text("{}\n")
        write_provenance(run / name, {"kind": "evaluation", "data": data})
    (run / "report.html").write_text(f"<p>{TEXT}")
    (run / ".learned-forget.training").mkdir()
    (run / ".learned-forget.training" / "blocks").write_text(TEXT)
    return run
