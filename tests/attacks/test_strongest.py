"""The strongest attack is chosen by intervals that hold for all at once."""

from __future__ import annotations

from attacking import compared

from taskarith.attacks.strongest import LEAST, strongest


def test_the_strongest_attack_is_chosen_by_intervals_that_hold_for_all_at_once():
    found = [compared("weak", 0.1), compared("strong", 0.6), compared("none", 0.9, attack="none")]
    found += [compared("forget text", 0.9, attack="relearn", steps=2), compared("handful", 0.9, n=LEAST - 1)]
    best = strongest(found, "loss")
    assert (best.outcome.name, best.attacks, best.few, best.most) == ("strong", 2, 1, 12)
    assert best.is_apart
    assert best.interval == found[1].cells["loss"].moments.interval(0.0125)
    assert best.interval[0] < found[1].cells["loss"].beyond_interval[0] < 0.2 < best.interval[1]
    assert best.to_json()["outcome"] == {"attack": "quantise", "name": "strong", "view": "all", "steps": 0}
    assert not strongest([compared("nothing", 0.0)], "loss").is_apart
    few = strongest([found[-1]], "loss")
    assert (few.attacks, few.most, few.outcome, few.is_apart) == (0, LEAST - 1, None, False)
    assert strongest(found, "rouge_l_f1") is None
