"""The options --csv and --latex, on every command that takes them."""

from __future__ import annotations

import csv

import pytest
import tiny
from commands import invoke

from taskarith.cli.paper import Paper
from taskarith.errors import OutputError
from taskarith.evaluation.score import score

SMALL = ["--block-size", 16, "--prompts", 0]


def _rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_score_writes_every_number(phi, forget, tmp_path):
    done = invoke("eval", phi, "--data", f"forget={forget}", *SMALL, "-o", tmp_path / "e", "--csv", tmp_path / "e.csv")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "e/report.html").is_file()
    done = invoke("score", tmp_path / "e", "--csv", tmp_path / "s.csv", "--latex", tmp_path / "s.tex")
    assert done.exit_code == 0, done.stderr
    assert _rows(tmp_path / "s.csv") == _rows(tmp_path / "e.csv")
    loss = score(tmp_path / "e").by_text[str(phi)]["forget"]["loss"]
    row = next(row for row in _rows(tmp_path / "s.csv") if row["metric"] == "loss")
    assert (row["model"], float(row["value"]), float(row["high"])) == (phi.name, loss.value, loss.high)
    assert f"numbers are in {tmp_path / 's.tex'}" in done.stderr
    assert r"\toprule" in (tmp_path / "s.tex").read_text(encoding="utf-8")
    assert invoke("score", tmp_path / "e", "--csv", tmp_path / "s.csv").exit_code == 1
    assert invoke("score", tmp_path / "e", "--csv", tmp_path / "s.csv", "--overwrite").exit_code == 0


def test_sweep_attack_and_relate_write_theirs(phi, phi_tuned, vectors, forget, tmp_path):
    (tmp_path / "retain.txt").write_text(tiny.text(12, 3), encoding="utf-8")
    data = ["--data", f"forget={forget}", "--data", f"retain={tmp_path / 'retain.txt'}"]
    pair = [vectors / "a.safetensors", vectors / "b.safetensors"]
    calls = {
        "sweep": [phi, "--negate", pair[0], "--alpha", "0,1", "--budget", 1, *data, *SMALL],
        "attack": [phi, "--forget", forget, "--attacks", "quantise", "--bits", 8, "--block-size", 16, "--prompts", 1],
        "relate": pair,
    }
    expected = {"sweep": "rise of the loss of retain sets", "attack": "accuracy", "relate": "cosine"}
    following = {
        "sweep": f"records, figure and report.html are in {tmp_path / 'sweep'}\n",
        "attack": f"next: taskarith report EVALUATION {tmp_path / 'attack'} -o report.html\n",
        "relate": f"next: taskarith sweep MODEL --negate {pair[0]} --data forget=FILE --data retain=FILE\n",
    }
    for name, arguments in calls.items():
        done = invoke(name, *arguments, "--csv", tmp_path / f"{name}.csv", "-o", tmp_path / name)
        assert done.exit_code == 0, done.stderr
        assert following[name] in done.stderr
        assert expected[name] in {row["metric"] for row in _rows(tmp_path / f"{name}.csv")}


@pytest.mark.parametrize(
    ("path", "words"),
    [("t.txt", "cannot write a table"), ("there.csv", "already exists"), ("e/t.csv", "lies in the folder")],
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(tmp_path, path, words):
    (tmp_path / "there.csv").touch()
    with pytest.raises(OutputError, match=words):
        Paper(csv=tmp_path / path).check(False, False, [], tmp_path / "e")


def _calls(phi, phi_tuned, vectors, forget, folder):
    """Return a call of each command that takes --format, and a word that its tables have."""
    (folder / "retain.txt").write_text(tiny.text(12, 3), encoding="utf-8")
    data = ["--data", f"forget={forget}", "--data", f"retain={folder / 'retain.txt'}"]
    pair = [vectors / "a.safetensors", vectors / "b.safetensors"]
    attack = ["--forget", forget, "--attacks", "quantise", "--bits", 8, "--block-size", 16, "--prompts", 1]
    return {
        "eval": ([phi, phi_tuned, *data, *SMALL], "forget loss"),
        "sweep": ([phi, "--negate", pair[0], "--alpha", "0,1", "--budget", 1, *data, *SMALL], "retain loss"),
        "attack": ([phi, *attack], "quantise"),
        "relate": (pair, "cosine"),
    }


@pytest.mark.parametrize("command", ["eval", "sweep", "attack", "relate"])
def test_stdout_has_nothing_but_the_format(phi, phi_tuned, vectors, forget, tmp_path, command):
    words, expected = _calls(phi, phi_tuned, vectors, forget, tmp_path)[command]
    done = invoke(command, *words, "--format", "csv", "--csv", tmp_path / "all.csv", "--latex", tmp_path / "all.tex")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == (tmp_path / "all.csv").read_text(encoding="utf-8")
    lines = invoke(command, *words, "--format", "markdown").stdout.splitlines()
    assert all(not line or line.startswith(("| ", "**")) for line in lines)
    assert any(expected in line for line in lines)
    latex = invoke(command, *words, "--format", "latex").stdout
    assert latex == (tmp_path / "all.tex").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--format", "xls"], "unknown format 'xls'"), (["--format", "csv", "--json"], "exclude each other")],
)
@pytest.mark.parametrize("command", ["eval", "sweep", "attack", "relate"])
def test_formats_that_there_are_not(phi, phi_tuned, vectors, forget, tmp_path, command, more, message):
    words, _ = _calls(phi, phi_tuned, vectors, forget, tmp_path)[command]
    done = invoke(command, *words, *more)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
