"""Random masks: numbers that depend on seed, tensor and place alone, the same with and without compiled code."""

from __future__ import annotations

import numpy as np

from taskarith.merging import masks


def test_random_numbers_are_philox_by_place(monkeypatch):
    # the known answer of the authors' own code (Random123) for a counter and a key of zero
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    numbers = masks.Numbers(42, "w", "ab")
    key, numbers.key = numbers.key, 0
    assert numbers.take(0, 512)[::128].tolist() == words
    # nobody may change these, or an edit cannot be repeated
    numbers.key = key
    assert numbers.take(6, 4).tolist() == [4073082438, 3162271264, 1312951736, 2219370062]
    spans = [(0, 1), (511, 2), (6, 4), (1 << 40, 700), ((1 << 41) + 77, 3000)]
    values = np.random.default_rng(0).normal(size=3000)
    kept = [
        masks.keep_by_chance(values, start, numbers, 0.3, True, -0.7, np.empty(len(values)))
        for start in (0, 512, 1 << 41)
    ]
    drawn = [numbers.take(*span) for span in spans]
    assert (drawn[0] == numbers.take(0, 9)[:1]).all()
    monkeypatch.setattr(masks, "load_or_none", lambda _: None)  # numpy's are the same
    assert all((numbers.take(*span) == one).all() for span, one in zip(spans, drawn, strict=True))
    for start, one in zip((0, 512, 1 << 41), kept, strict=True):
        again = masks.keep_by_chance(values, start, numbers, 0.3, True, -0.7, np.empty(len(values)))
        assert one.tobytes() == again.tobytes()
        assert ((one == 0) | (one == values / 0.3 * -0.7)).all()
        assert 800 < np.count_nonzero(one) < 1000
