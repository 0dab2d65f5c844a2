"""Edits in memory measure as the written edits do."""

from __future__ import annotations

from evaluating import SMALL, strip

from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.run import row_name


def test_an_edit_in_memory_is_the_written_edit(phi, phi_tuned, texts, tmp_path):
    from taskarith.edit.apply import apply

    written = apply(str(phi), negate=[str(phi_tuned)], alpha=0.5, output_dir=tmp_path / "edited").path
    evaluation = evaluate([str(phi)], texts, **SMALL, negate=[str(phi_tuned)], alphas=[0.5, 0, 1])
    rows = evaluation.scores.models
    assert rows == tuple(row_name(str(phi), alpha) for alpha in (0.5, 0, 1))
    assert rows[0] == f"{phi} alpha=0.5"
    assert strip(evaluation, rows[0]) == strip(evaluate([str(written)], texts, **SMALL))
    assert strip(evaluation, rows[1]) == strip(evaluate([str(phi)], texts, **SMALL))
    assert strip(evaluation, rows[2]) != strip(evaluation, rows[1])
