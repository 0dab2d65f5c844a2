"""What a report says of the folders of measurements."""

from __future__ import annotations

import shutil

from taskarith.evaluation.evaluate import evaluate
from taskarith.report.report import report


def test_verdicts_claim_nothing_that_is_not_measured(measured, tmp_path, phi, phi_tuned):
    small = {"block_size": 16, "prompts": 0}
    same = shutil.copytree(phi, tmp_path / "same")
    texts = {"forget": str(measured / "forget.txt")}
    evaluate([str(same)], texts, reference=str(phi), output_dir=tmp_path / "equal", **small)
    (verdict,) = report(tmp_path / "equal", tmp_path / "a.html").verdicts
    assert verdict.startswith("These samples do not show that same knows the text forget better than base")
    mixed = shutil.copytree(tmp_path / "equal", tmp_path / "mixed")
    lines = (mixed / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (mixed / "records.jsonl").write_text("".join(lines[1:]), encoding="utf-8")  # one sample less of the first model
    assert "cannot be compared" in report(mixed, tmp_path / "d.html").verdicts[0]
    evaluate([str(phi)], {"forget": str(measured / "forget.txt")}, output_dir=tmp_path / "alone", **small)
    assert "does not say whether it is forgotten" in report(tmp_path / "alone", tmp_path / "b.html").verdicts[0]
    evaluate([str(phi)], {"other": str(measured / "forget.txt")}, output_dir=tmp_path / "other", **small)
    assert "nothing is said about forgetting" in report(tmp_path / "other", tmp_path / "c.html").verdicts[0]
