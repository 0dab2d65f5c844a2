"""What an edit would cost and what would fail, without writing anything."""

from __future__ import annotations

import shutil
import tempfile
from types import SimpleNamespace

import pytest
from merging import method

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.edit.apply import apply


def test_dry_run_reads_headers_and_writes_nothing(tmp_path, phi, vector):
    result = apply(str(phi), negate=[str(vector)], output_dir=tmp_path / "out", dry_run=True)
    assert list(tmp_path.iterdir()) == []
    assert result.actions == {"edited": 33}
    assert result.write_bytes == (phi / "model.safetensors").stat().st_size
    assert result.fingerprint == ""


@pytest.mark.parametrize("fault", ["full", "locked"])
def test_a_disk_that_is_full_or_cannot_be_written_is_named_beforehand(tmp_path, monkeypatch, phi, vector, fault):
    if fault == "full":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    else:
        monkeypatch.setattr(tempfile, "TemporaryFile", locked)
    out = tmp_path / "not yet" / "out"
    found = apply(str(phi), negate=[str(vector)], output_dir=out, dry_run=True).forecast
    words = {"full": f"{tmp_path} has 0.0 GB of space", "locked": f"{tmp_path} cannot be written"}[fault]
    assert [problem.startswith(words) for problem in found.problems] == [True]
    assert found.read_rate > 0
    assert (found.write_rate == 0) == (fault == "locked")
    assert list(tmp_path.iterdir()) == []


def locked(**options):
    raise PermissionError(13, "Permission denied")


def test_memory_grows_with_the_operands_and_with_matrices_that_are_held_whole(tmp_path, phi, tuned):
    def memory(count, **options):
        result = apply(str(phi), add=tuned[:count], output_dir=tmp_path / "out", dry_run=True, **options)
        return result.forecast.memory_bytes

    one, three, whole = memory(1), memory(3), memory(3, method=method("tsv"))
    assert 80_000_000 < one < three < whole
    largest = max(one.elements for one in open_checkpoint(phi).tensors.values() if len(one.shape) == 2)
    assert whole - three == 48 * 3 * largest  # of one core: six times each of three deltas, in float64
