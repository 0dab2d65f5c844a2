"""The result of a run as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from taskarith.unlearning.result import UnlearnResult


def test_all_of_it_is_plain():
    result = UnlearnResult(
        Path("run"), "forgotten", 0.5, ("It is gone.",), (), Path("run/edited"), None, ("taskarith eval",), 1.5
    )
    assert json.loads(json.dumps(result.to_json())) == {
        "output_dir": "run",
        "outcome": "forgotten",
        "alpha": 0.5,
        "verdicts": ["It is gone."],
        "missing": [],
        "edited": "run/edited",
        "report": None,
        "commands": ["taskarith eval"],
        "seconds": 1.5,
    }
    assert repr(result).startswith("UnlearnResult(outcome=")
    assert "\n" not in repr(result)
