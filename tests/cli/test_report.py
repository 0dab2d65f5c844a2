"""The command `report`."""

from __future__ import annotations

import json

import tiny
from commands import invoke

from taskarith.evaluation.evaluate import evaluate


def test_the_page_and_its_verdicts(phi, tmp_path):
    (tmp_path / "forget.txt").write_text(tiny.text(60), encoding="utf-8")
    evaluate(str(phi), str(tmp_path / "forget.txt"), output_dir=tmp_path / "eval", block_size=16, prompts=0)
    done = invoke("report", tmp_path / "eval", "-o", tmp_path / "r.html", "--title", "Ours", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["nbytes"] == (tmp_path / "r.html").stat().st_size
    assert "does not say whether it is forgotten" in found["verdicts"][0]
    assert "<h1>Ours</h1>" in (tmp_path / "r.html").read_text(encoding="utf-8")
    again = invoke("report", tmp_path / "eval", "-o", tmp_path / "r.html")
    assert (again.exit_code, "--overwrite" in again.stderr) == (1, True)
