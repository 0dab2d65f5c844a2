"""The console: results on stdout, words on stderr; one process speaks, quietly if it is asked to."""

from __future__ import annotations

import json

import pytest

from taskarith.console import Console
from taskarith.errors import UsageError


def speak(console):
    console.line("a line")
    console.table("title", ["name", "value"], [["a" * 200, "1"], ["[b]", "22"]])
    console.note("a \x1bremark")
    console.progress("work | more", 1, 2)
    console.result({"ä": 1.5})


def test_results_go_to_stdout_and_words_to_stderr(capsys):
    speak(Console())
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "a line"
    assert "a" * 200 in out  # no cell is cut
    assert "[b]" in out  # no mark-up
    assert err == "a \\x1bremark\n"  # nothing steers a terminal, and no bar is drawn elsewhere


def test_json_stands_alone_on_stdout(capsys):
    speak(Console(as_json=True))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"ä": 1.5}
    assert "remark" in err
    with pytest.raises(ValueError, match="Out of range float"):
        Console(as_json=True).result({"a": float("nan")})


def test_who_is_quiet_or_not_the_first_process_says_less(capsys, monkeypatch):
    speak(Console(quiet=True))
    out, err = capsys.readouterr()
    assert ("a line" in out, err) == (True, "")
    monkeypatch.setenv("RANK", "1")
    speak(Console(as_json=True))
    speak(Console())
    assert capsys.readouterr() == ("", "")


def test_an_error_is_two_lines(capsys):
    Console(quiet=True).error(UsageError("what [is] wrong", "what to do"))
    assert capsys.readouterr() == ("", "error: what [is] wrong\nhint:  what to do\n")
