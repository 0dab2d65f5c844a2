"""Records of edits that somebody has changed."""

from __future__ import annotations

import pytest

from taskarith.edit.apply import apply
from taskarith.errors import CheckpointError
from taskarith.inspection.verify import verify


@pytest.mark.parametrize("record", ['{"kind": "edit"}', '{"kind": "edit", "tensors": {"a": 3}}'])
def test_a_record_that_somebody_has_changed(tmp_path, pair, record):
    base, tuned = pair
    apply(str(base), add=[str(tuned)], output_dir=tmp_path / "out")
    (tmp_path / "out" / "taskarith.json").write_text(record)
    with pytest.raises(CheckpointError, match=r"record of .* is broken"):
        verify(tmp_path / "out")
