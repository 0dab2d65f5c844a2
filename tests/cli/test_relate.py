"""`taskarith relate` as a user types it."""

from __future__ import annotations

import json

import pytest
from asking import CHAT, CHAT_OPTIONS, write_questions
from commands import invoke

from taskarith.relations.relate import relate


def test_the_command_prints_what_the_verb_finds(vectors, tmp_path):
    pair = [vectors / "a.safetensors", vectors / "b.safetensors"]
    done = invoke("relate", *pair, "--rank", 2, "--json", "--plot", tmp_path / "map.svg")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(relate([*map(str, pair)], rank=2).to_json()))
    assert (tmp_path / "map.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert f"the cosines are plotted in {tmp_path / 'map.svg'}" in done.stderr
    shown = invoke("relate", *pair).stdout
    cosine = relate([*map(str, pair)]).weights.group().cosine(0, 1)
    assert f"{cosine:+.3f}" in next(line for line in shown.splitlines() if line.startswith("cosine"))


@pytest.mark.parametrize(
    ("plot", "code", "words"),
    [
        ("map.gif", 1, "cannot write a plot to"),
        ("a.safetensors.svg", 1, "already exists"),
    ],
)
def test_a_plot_that_cannot_be_written_is_refused_before_any_work(vectors, tmp_path, monkeypatch, plot, code, words):
    monkeypatch.setattr("taskarith.relations.relate.relate", lambda *_, **__: pytest.fail("it began to work"))
    (tmp_path / "a.safetensors.svg").touch()
    done = invoke("relate", vectors / "a.safetensors", vectors / "b.safetensors", "--plot", tmp_path / plot)
    assert done.exit_code == code
    assert words in done.stderr


def test_questions_are_asked_by_the_chat_template_if_that_is_wanted(vectors, tmp_path):
    pair, path = [str(vectors / f"{name}.safetensors") for name in "ab"], write_questions(tmp_path)["questions"]
    done = invoke("relate", *pair, "--data", f"x={path}", "--data", f"y={path}", "--inputs", 4, *CHAT_OPTIONS, "--json")
    assert done.exit_code == 0, done.stderr
    expected = relate(pair, data={"x": path, "y": path}, inputs=4, **CHAT)
    assert json.loads(done.stdout) == json.loads(json.dumps(expected.to_json()))
