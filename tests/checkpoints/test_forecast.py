"""What would fail for want of room or rights is named before a run."""

from __future__ import annotations

import shutil
import tempfile
from types import SimpleNamespace

import pytest

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.forecast import forecast

SIZES = {"read_bytes": 10**9, "write_bytes": 2 * 10**9, "memory_bytes": 7}


@pytest.mark.parametrize("fault", ["full", "locked", ""])
def test_a_disk_that_is_full_or_cannot_be_written_is_named(tmp_path, monkeypatch, phi, fault):
    def locked(**options):
        raise PermissionError(13, "Permission denied")

    if fault == "locked":
        monkeypatch.setattr(tempfile, "TemporaryFile", locked)
    free = 1 if fault == "full" else 10**12
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    largest = max(open_checkpoint(phi).tensors.values(), key=lambda entry: entry.nbytes)
    found = forecast(tmp_path / "not yet" / "out", largest=largest, **SIZES)
    words = {"full": "has 0.0 GB of space, 2.0 GB are needed", "locked": "cannot be written"}
    assert found.problems == ((f"{tmp_path} {words[fault]}",) if fault else ())
    assert (found.write_rate == 0) == (fault == "locked")
    assert (found.read_rate > 0, found.seconds > 0, found.memory_bytes) == (True, True, 7)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_reads_nothing(tmp_path):
    found = forecast(tmp_path / "out", largest=None, read_bytes=0, write_bytes=10, memory_bytes=1)
    assert (found.read_rate, found.problems) == (0, ())
