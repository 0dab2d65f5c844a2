"""Shares of a gap have Fieller's interval, or none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from attacking import many, said

from taskarith.attacks.recovery import outcome


def test_shares_have_fiellers_interval():
    above, below = np.array([-12.0, -9, -14, -10, -16]), np.array([-30.0, -26, -33, -28, -38])
    records = many("before", 50 + below) + many("edited", [50.0] * 5) + many("retain int4", [44.0] * 5)
    records += many("edited int4", 50 + above)
    cell = outcome(records, attack="quantise", name="int4", state="int4").cells["loss"]
    assert cell.recovered == pytest.approx(above.sum() / below.sum())
    assert cell.beyond == pytest.approx((above + 6).sum() / below.sum())
    assert (cell.n, cell.lacking) == (5, None)
    for end in cell.recovered_interval:  # at its ends the mean of above - r * below is just apart from 0
        rest = above - end * below
        assert abs(rest.mean()) / (rest.std(ddof=1) / math.sqrt(5)) == pytest.approx(2.776445, abs=1e-5)
    low, high = cell.beyond_interval
    assert low < cell.beyond < high
    wider = cell.moments.interval(0.025 / 10)
    assert wider[0] < low < high < wider[1]
    flat = outcome(records, attack="none", name="edited").cells["loss"]
    assert (flat.recovered, flat.recovered_interval) == (0.0, None)


def test_a_gap_that_is_not_apart_from_nothing_gives_no_share():
    records = many("before", [40.0, 52, 47, 55]) + many("edited", [50.0] * 4) + many("edited int4", [30.0] * 4)
    cell = outcome(records, attack="quantise", name="int4", state="int4").cells["loss"]
    assert (cell.recovered, cell.recovered_interval) == (None, None)
    assert cell.lacking.startswith("before - edited is -0.150 (-1.193 to 0.893)")
    assert cell.lacking.endswith("which does not differ significantly from 0")


@pytest.mark.parametrize(("prompts", "is_known"), [(2, False), (4, False), (12, True)])
def test_prompts_that_all_lost_the_same_need_to_be_some(prompts, is_known):
    records = [said("before", "forget", f"p{n}", "one two three four") for n in range(prompts)]
    records += [said(model, "forget", f"p{n}", "nothing") for n in range(prompts) for model in ("edited", "edited x")]
    cell = outcome(records, attack="quantise", name="x", state="x").cells["verbatim"]
    assert (cell.recovered, cell.lacking is None) == ((0.0, True) if is_known else (None, False))
