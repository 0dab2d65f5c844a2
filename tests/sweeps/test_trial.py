"""Coefficients tried on a loaded model: what is tried is kept, and measured once."""

from __future__ import annotations

from contextlib import closing

import oracle
import pytest
from sweeping import open_bench

from taskarith.checkpoints.journal import Journal
from taskarith.checkpoints.units import Units
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.errors import OutputError
from taskarith.sweeps.rule import Point, Rule, TextScore
from taskarith.sweeps.trial import Trial, pack, unpack

POINT = Point(1.0, {"forget": TextScore(3.0)}, {"a": TextScore(1.0), "b": TextScore(2.0)}, 0.25)


def test_what_is_kept_of_a_point_gives_it_back():
    assert unpack(pack(POINT)) == POINT
    assert Trial((0.5, 2.0), POINT).to_json(["f", "r"])["coefficients"] == {"f": 0.5, "r": 2.0}
    with pytest.raises(KeyError):
        unpack({"forget": {}, "keep": {}})


def test_what_was_tried_is_measured_once_and_of_these_texts_only(lab, tmp_path, monkeypatch):
    aim, none, all_of_forget = Rule(budget=1.0), [0.0] * 6, [0.0] * 3 + [1.0] * 3
    with closing(Journal(tmp_path / "journal", "plan")) as journal:
        units = Units(journal, tmp_path)
        with open_bench(lab, aim, kl=0.5, units=units) as bench:
            before = {name: one.clone() for name, one in bench.model.state_dict().items()}
            assert bench.attempt(none).point == bench.unedited  # not a bit moves, so KL is exactly 0
            tried = bench.attempt(all_of_forget)
            memory = InMemoryEdit(bench.model, lab["tuned"], negate=[lab["forget"]])
            edited = {name: one.clone() for name, one in bench.model.state_dict().items()}
            bench.memory.restore()
            assert oracle.differing(bench.model.state_dict(), before) == []
            memory.set(1.0)
            assert oracle.differing(bench.model.state_dict(), edited) == []
            memory.restore()
            assert tried.point.forget_loss > bench.unedited.forget_loss + 0.1
            assert tried.point.kl > 0
            assert bench.objective(tried.point) == aim.objective(tried.point, bench.unedited, 0.5)
            monkeypatch.setattr(bench, "edit", lambda _: pytest.fail("it is known already"))
            assert bench.attempt(all_of_forget) == tried
            journal.done["trial [1.0]"] = {"value": pack(POINT)}
            with pytest.raises(OutputError, match="it is for different texts"):
                bench.attempt([1.0])
