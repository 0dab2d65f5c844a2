"""How long a run will take is told once, from the steps after the first."""

from __future__ import annotations

import pytest
from forgetting import Notes

from taskarith.unlearning import forecast
from taskarith.unlearning.forecast import Forecast


@pytest.mark.parametrize(
    ("lessons", "rest", "told"),
    [
        (1.0, 600.0, ["learning takes at most 16 min more, and all that follows 10"]),
        (2.5, 30.0, ["learning takes at most 43 min more, and all that follows 0.5"]),
    ],
)
def test_the_first_steps_show_it_once(monkeypatch, lessons, rest, told):
    notes, clock = Notes(), iter([40.0, 50.0, 60.0, 70.0])  # the first step takes longer
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: next(clock))
    listener = Forecast(notes, lessons, rest)
    listener.progress("loading the model", 1, 1)
    for step in range(8, 20):  # of a run that is resumed
        listener.progress(f"training | loss {step}", step, 108)
    listener.note("said by the training")
    assert [line.partition("before, ")[2] for line in notes.told[:-1]] == told
    assert notes.told[-1] == "said by the training"


def test_what_is_short_is_not_worth_a_line(monkeypatch):
    notes = Notes()
    monkeypatch.setattr(forecast.time, "perf_counter", iter(range(10)).__next__)
    listener = Forecast(notes, 1.0, 10.0)
    for step in range(1, 9):
        listener.progress("training | loss 2", step, 20)
    assert notes.told == []
