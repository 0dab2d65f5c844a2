"""The console: results on stdout, words on stderr; one process speaks, quietly if it is asked to."""

from __future__ import annotations

import io
import json
import re

import pytest

from taskarith import console as console_module
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


@pytest.mark.parametrize("width", [30, 40, 80])
def test_a_table_is_cut_between_columns_where_a_terminal_is_narrow(capsys, monkeypatch, width):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ["model", *(f"a long column {number}" for number in range(6))]
    rows = [[name, *(f"{name}{number}" for number in range(6))] for name in ("base", "edited")]
    Console().table("a title", columns, rows)
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, map(str.rstrip, out.splitlines()))) <= width
    assert out.count("a title") == 1
    assert all(out.count(cell) == 1 for cell in [*columns[1:], *rows[0][1:], *rows[1][1:]])
    assert out.count("edited ") == out.count("model") > (width < 80)
    Console().table("t", ["x" * 100, "y"], [["cell" * 30, "1"]])  # a cell is never cut
    assert "cell" * 30 in capsys.readouterr().out


def test_long_work_is_heard_of_where_there_is_no_terminal(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 31.0, 40.0, 61.0, 95.0, 100.0, 200.0])
    monkeypatch.setattr(console_module.time, "monotonic", lambda: next(clock))
    console = Console()
    for done in range(6):
        console.progress(f"training | step {done}", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training: 2% after 31 s, about 25 min left",
        "training: 4% after 61 s, about 24 min left",
        "training: 5% after 2 min, about 30 min left",
    ]
    console.progress("training | again", 0, 100)
    console.progress("training | again", 50, 100)  # its time left is that of the second run alone
    assert capsys.readouterr().err == "training: 50% after 2 min, about 2 min left\n"


def test_a_bar_starts_anew_with_its_work(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = Console()
    console._err.file = io.StringIO()
    tasks = []
    for done in (0, 5, 10, 0, 5):
        console.progress("measuring", done, 10)
        tasks.append(console._task)
    console.close()
    assert tasks[0] == tasks[1] == tasks[2] != tasks[3] == tasks[4]
