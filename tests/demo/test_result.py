"""The result of the demo as plain values."""

from __future__ import annotations

import json
import math
from pathlib import Path

from taskarith.demo.result import DemoResult
from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.unlearning.result import UnlearnResult


def test_all_of_it_is_plain():
    scores = {"forgotten": {"loss": Estimate(2.0, 1.0, 3.0, 4), "perplexity": Estimate(math.inf, None, None, 4)}}
    unlearned = UnlearnResult(Path("d"), "forgotten", 0.5, (), (), Path("d/edited"), None, (), 1.0)
    result = DemoResult(
        Path("d"), scores, {0.0: scores}, {"random": scores}, unlearned, {"forgotten": 0.9}, ("x",), 2.0
    )
    plain = {"forgotten": {"loss": 2.0, "perplexity": None}}
    found = json.loads(json.dumps(result.to_json()))
    assert found["base"] == found["control"]["random"] == found["curve"][0]["scores"] == plain
    assert found["recommended_alpha"] == 0.5
    assert [row.model for row in result.tidy()][::2] == ["base", "alpha 0", "minus random"]
