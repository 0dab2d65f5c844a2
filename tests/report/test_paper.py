"""Tables for a paper and for other programs, whatever stands in the names."""

from __future__ import annotations

import csv
import io
import math
import shutil
import subprocess

import pytest

from taskarith.errors import OutputError
from taskarith.report.paper import csv_text, latex_escaped, latex_text, markdown_text, write_tables
from taskarith.report.tables import TableRows
from taskarith.tidy import COLUMNS, TidyRow

HOSTILE = r"a_&%$#{}\~^<>|\"[x]*--`' \input{/etc/passwd} ^^41"


def _row(model="m", text="forget", metric="loss", value=1.5, low=1.0, high=2.0, n=8, deviation=None):
    return TidyRow(model, text, metric, value, low, high, n, deviation)


def test_csv_has_a_row_a_number_at_full_precision_and_no_formulas():
    rows = [
        _row(value=1 / 3),
        _row("=HYPERLINK(1)", '@x,\n"y"', value=-0.5, low=None),
        _row("+a", "-b", value=math.inf),
    ]
    read = list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert tuple(read[0]) == COLUMNS
    assert float(read[0]["value"]) == 1 / 3
    assert (read[1]["model"], read[1]["text"], read[1]["value"]) == ("'=HYPERLINK(1)", '\'@x,\n"y"', "-0.5")
    assert read[1]["low"] == ""
    assert (read[2]["model"], read[2]["text"], read[2]["value"]) == ("'+a", "'-b", "inf")
    assert csv_text([]).strip() == ",".join(COLUMNS)


def test_models_are_named_without_their_folders_as_far_as_they_stay_apart():
    assert "\nbase,forget,kl from tuned," in csv_text([_row("/home/me/base", metric="kl from /home/me/tuned")])
    same = csv_text([_row("runs/a/edited"), _row("runs/b/edited")])
    assert "runs/a/edited" in same
    assert "runs/b/edited" in same


def test_latex_writes_mean_and_interval_or_deviation():
    text = latex_text(
        [_row(), _row(metric="perplexity", value=4.5, low=4.0, high=6.0), _row(metric="verbatim", low=None)]
    )
    assert r"m & $1.500 \pm 0.500$ & $4.500^{+1.500}_{-0.500}$ & $1.500$ \\" in text
    assert r"\caption{forget: 95\% intervals, $n = 8$}" in text
    seeds = latex_text([_row(low=None, high=None, n=3, deviation=0.25)])
    assert r"m & $1.500 \pm 0.250$ \\" in seeds
    assert r"mean $\pm$ standard deviation over seeds, $n = 3$" in seeds
    assert r"$3.000 \times 10^{-5}$" in latex_text([_row(metric="forget_quality", value=3e-5, low=None)])
    assert r"$\infty$" in latex_text([_row(metric="perplexity", value=math.inf)])
    gap = latex_text([_row("a"), _row("b", metric="accuracy")])
    assert r"a & $1.500 \pm 0.500$ & -- \\" in gap


def test_many_metrics_of_few_models_are_rows_and_wide_tables_are_cut():
    few = latex_text([_row(metric=f"m{n}") for n in range(9)])
    assert few.count(r"\begin{table}") == 1
    many = latex_text([_row(f"model {n}", metric=f"m{m}") for n in range(12) for m in range(9)])
    assert many.count(r"\begin{table}") == 2
    assert "{lrrrrrr}" in many


def test_nothing_in_a_name_is_a_command():
    escaped = latex_escaped(HOSTILE)
    assert r"\textbackslash{}input\{/etc/passwd\}" in escaped
    assert escaped.startswith(r"a\_\&\%\$\#\{\}")
    assert "--" not in escaped
    assert latex_escaped("a\x1b[0m\n") == "a?{[}0m?"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX")
def test_latex_takes_it(tmp_path):
    table = latex_text([_row(HOSTILE, HOSTILE, HOSTILE), _row("[b", HOSTILE, "*"), _row("*c", HOSTILE, "loss")])
    head = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\n\\begin{document}\n"
    (tmp_path / "t.tex").write_text(f"{head}{table}\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=batchmode", "-no-shell-escape", "t.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert "Missing character" not in (tmp_path / "t.log").read_text(encoding="latin-1")


def test_own_files_are_replaced_and_others_are_not(tmp_path):
    table, tex = tmp_path / "t.csv", tmp_path / "t.tex"
    for overwrite in (False, True):
        write_tables([_row()], table, tex, overwrite)
    with pytest.raises(OutputError, match="already exists"):
        write_tables([_row()], table, None, False)
    for path in (table, tex):
        path.write_text("mine", encoding="utf-8")
        with pytest.raises(OutputError):
            write_tables([_row()], *((path, None) if path == table else (None, path)), True)
        assert path.read_text(encoding="utf-8") == "mine"


def test_markdown_holds_no_markup_of_strangers():
    table = TableRows("a | b\n# c", ("model", "x*y\nloss"), (("[m](http://x)", "1"), ("<b>\x1b[31m`|", "~2~")))
    assert markdown_text([table, TableRows("", ("n",), (("3",),))]).splitlines() == [
        "**a \\| b \\# c**",
        "",
        "| model | x\\*y loss |",
        "| --- | ---: |",
        "| \\[m\\](http://x) | 1 |",
        "| \\<b\\>\\[31m\\`\\| | \\~2\\~ |",
        "",
        "| n |",
        "| --- |",
        "| 3 |",
        "",
    ]
