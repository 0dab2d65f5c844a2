"""The table of objectives agrees with what is documented of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from taskarith.cli import finetune as command
from taskarith.training.objective_table import LEARN, OBJECTIVES
from taskarith.training.settings import TrainingSettings

PAGE = Path(__file__).parents[2] / "docs/how-to/prove-forgetting.md"


def test_every_objective_is_documented_with_its_default():
    page, options = PAGE.read_text(encoding="utf-8"), command._TrainingOptions.__annotations__
    for name, one in OBJECTIVES.items():
        assert name in options["objective"], name
        assert name == LEARN or f"| `{name}` |" in page, name
        assert one.beta is None or (f"`--beta` {one.beta:g}" in page and f"{one.beta:g} for {name}" in options["beta"])
        retain = ["retain"] if one.retain == "required" else []
        settings = TrainingSettings(objective=name)
        assert settings.temperature == one.beta
        assert bool(retain) == (name in {"graddiff", "kl", "rmu"})


def test_the_table_needs_no_torch():
    code = "import sys, taskarith.training.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
