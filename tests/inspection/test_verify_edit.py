"""Edits are calculated again from their inputs."""

from __future__ import annotations

import json

from adapters import save_adapter

from taskarith.edit.apply import apply
from taskarith.inspection.verify import verify


def test_an_edit_with_an_adapter_is_calculated_again(tmp_path, phi):
    adapter = save_adapter(phi, tmp_path / "adapter")
    apply(str(phi), negate=[f"{adapter}:0.7"], output_dir=tmp_path / "out")
    assert verify(tmp_path / "out", seed=3).is_sound


def test_an_edit_that_was_calculated_wrongly_is_found(tmp_path, pair):
    base, tuned = pair
    apply(str(base), add=[f"{tuned}:0.5"], output_dir=tmp_path / "out")
    record = json.loads((tmp_path / "out/taskarith.json").read_text())
    record["operands"][0]["coefficient"] = 0.51
    (tmp_path / "out/taskarith.json").write_text(json.dumps(record))
    found = verify(tmp_path / "out")
    assert found.damaged == ()
    assert len(found.wrong) > 10
