"""Vectors are verified by their fingerprints, and by a sample against base and fine-tune."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from taskarith.checkpoints.header import SEAL
from taskarith.errors import TaskarithError
from taskarith.inspection.verify import verify
from taskarith.vectors.extract import extract


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"top_k": 0.5}])
def test_a_fine_tune_that_changed_is_not_blamed_on_its_vector(made, tmp_path, options):
    tuned = shutil.copytree(made / "tuned", tmp_path / "tuned")
    path = extract(str(made / "base"), str(tuned), tmp_path / "v.safetensors", **options).path
    assert verify(path).is_sound
    for shard in tuned.glob("*.safetensors"):
        save_file({name: one * 1.5 for name, one in load_file(shard).items()}, shard, metadata={"format": "pt"})
    found = verify(path)
    assert found.is_sound
    assert "fine-tune has changed since" in found.unsampled


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "bfloat16"}, {"exact": True}, {"top_k": 0.3}, {"rows": 0.5}, {"bits": 4}, {"bits": 1}]
)
def test_every_byte_of_a_vector_counts(made, tmp_path, options):
    path = extract(str(made / "base"), str(made / "tuned"), tmp_path / "v.safetensors", **options).path
    assert verify(path).is_sound
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    step = (len(data) - start) // 13
    for position in (*range(0, start, start // 11), *range(start, len(data), step), len(data) - 1):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        try:
            assert not verify(path).is_sound, position
        except TaskarithError:
            assert position < start


def test_a_vector_of_an_earlier_release(made, tmp_path):
    path = shutil.copy(made / "v.safetensors", tmp_path / "v.safetensors")
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    del header["__metadata__"][SEAL]
    path.write_bytes(data[:8] + json.dumps(header, separators=(",", ":")).encode().ljust(length) + data[8 + length :])
    found = verify(path)
    assert found.is_sound
    assert "no digest of itself" in found.uncovered[0]
