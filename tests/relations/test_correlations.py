"""How models relate by what they answer: what is measured, and all of it in JSON."""

from __future__ import annotations

import json

import numpy as np

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.relations.correlations import DECISIVE, MEASURES, MULTIPLES, OutputRelations, Removal

ONE = Estimate(0.5, 0.25, 0.75, 4)


def test_all_of_it_is_plain_and_in_the_order_of_the_pairs():
    pairs = {(0, 1): ONE, (0, 2): None, (1, 2): Estimate(1.0, None, None, 4)}
    found = OutputRelations(
        ("a", "b", "c"),
        (4, 4, 5),
        {DECISIVE: pairs},
        np.zeros((4, 3)),
        np.ones((4, 3)),
        ((ONE,) * 3,) * 3,
        (True, False, None),
        dict.fromkeys(pairs, (ONE, ONE)) | {(0, 2): None},
        (Removal("b", 0.5, 1.25, ONE),),
    ).to_json()
    assert json.loads(json.dumps(found, allow_nan=False))["inputs"] == [4, 4, 5]
    first, second, third = found["correlations"][DECISIVE]
    assert (first["value"], first["low"], second, third["low"]) == (0.5, 0.25, None, None)
    assert found["models"] == ["base", "a", "b", "c"]
    assert (len(found["losses"]), len(found["losses"][0])) == (4, 3)
    assert found["trained on"] == [True, False, None]
    assert found["together"][1] is None
    assert found["removals"] == [{"task": "b", "alpha": 0.5, "known": 1.25, "rise": ONE.to_json()}]


def test_what_decides_is_measured_and_no_vector_stands_in_shorter_than_it_is():
    assert DECISIVE in MEASURES
    assert list(MULTIPLES) == sorted(MULTIPLES)
    assert MULTIPLES[0] == 1
