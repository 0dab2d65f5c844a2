"""What a training reports while it runs."""

from __future__ import annotations

import pytest
from finetuning import QUICK, Notes

from taskarith.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_tensorboard_was_told_is_published(tmp_path, text, phi):
    logs = tmp_path / ".out.training" / "runs"

    class Writer(Notes):
        def progress(self, what: str, done: float, total: float) -> None:
            del what, total
            logs.mkdir(exist_ok=True)
            (logs / "events").write_text(f"{done:.0f}")

    finetune(str(phi), [text], tmp_path / "out", listener=Writer(), **QUICK)
    assert (tmp_path / "out/runs/events").read_text() == "2"
