"""A reduced run of ``make soak``, and that it notices what it is there to notice."""

from dataclasses import replace
from random import Random

import pytest

from benchmarks.robustness.commands import _CALLS, World
from benchmarks.robustness.holding import Holding, growth
from benchmarks.robustness.soak import _LIGHT, Soak


def test_a_round_of_random_commands_loses_nothing(tmp_path):
    soak = Soak(tmp_path, seed=1)
    soak.round(1, calls=20, children=1, verbs=_LIGHT)
    assert soak.odd == []
    assert (soak.counts["commands"], soak.counts["lost"]) == (21, 0)
    assert soak.counts["verified"] > 5
    assert "| outputs lost | 0 |" in soak.table(1)


def test_the_seed_decides_the_commands(tmp_path):
    draws = []
    for name in ("a", "b"):
        world, rng = World(tmp_path / name), Random("1:1")
        draws.append([world.draw(rng, dict.fromkeys(_CALLS, 1.0)).argv() for _ in range(40)])
    assert {words[0] for words in draws[0]} == {*_CALLS}
    assert [[word.replace("/a/", "/b/") for word in words] for words in draws[0]] == draws[1]


def _damage(soak, output):
    path = next(iter(soak._digests)) if output is None else output
    weights = path if path.is_file() else next(path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")


@pytest.mark.parametrize("which", ["its own output", "an earlier one"])
def test_a_command_that_damages_an_output_is_noticed(tmp_path, monkeypatch, which):
    soak, call = Soak(tmp_path, seed=2), _CALLS["extract"]

    def damaging(operands, options):
        call(operands, options)
        _damage(soak, options["output"] if which == "its own output" or not soak._digests else None)

    monkeypatch.setitem(_CALLS, "extract", damaging)
    soak.round(0, calls=4, children=0, verbs={"extract": 1})
    assert soak.counts["lost"] > 0


def test_what_is_left_and_what_grows_is_noticed(tmp_path, monkeypatch):
    soak, call = Soak(tmp_path, seed=3), _CALLS["inspect"]
    monkeypatch.setitem(
        _CALLS, "inspect", lambda *given: (soak.world.outputs / ".o1.partial").mkdir(exist_ok=True) or call(*given)
    )
    soak.round(0, calls=1, children=0, verbs={"inspect": 1})
    assert soak.odd == ["left behind: ['.o1.partial']"]
    held = Holding(100.0, 5, 1, 0, 1, 10)
    assert growth([held] * 3) == []
    for change in ({"megabytes": 120.0}, {"descriptors": 6}, {"threads": 2}, {"temporary": 2}):
        assert len(growth([held, held, replace(held, **change)])) == 1
