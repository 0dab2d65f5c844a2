"""Packed vectors are written the same, whatever the blocks, threads and processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import oracle
import pytest
import torch
from packed_forms import FORMS, decoded

import taskarith
from taskarith.arithmetic.parallel import Workers
from taskarith.checkpoints.checkpoint import fingerprint_tensors, open_checkpoint
from taskarith.checkpoints.reader import combine_fingerprints
from taskarith.edit.apply import apply
from taskarith.inspection.verify import verify
from taskarith.vectors.codecs.exact import Exact
from taskarith.vectors.codecs.quantised import Quantised
from taskarith.vectors.codecs.write import packed_metadata, write_packed
from taskarith.vectors.difference import PairSource
from taskarith.vectors.extract import extract


@pytest.mark.parametrize("form", ["exact", "quantised"])
def test_many_blocks_and_threads(tmp_path, pair, form):
    """With small blocks a tensor has many, whose ends fall anywhere in its rows."""
    base, tuned = map(open_checkpoint, pair)
    files = []
    for workers in (1, 4):
        source, packing = PairSource(base, tuned), Exact() if form == "exact" else Quantised(4)

        def describe(found, source=source, packing=packing):
            known = {"format": "taskarith-vector", "format_version": "1", "base": str(pair[0])}
            known["base_tensors"] = json.dumps(fingerprint_tensors(base))
            known["base_fingerprint"] = combine_fingerprints(fingerprint_tensors(base))
            return known | packed_metadata(source, packing, found, block=100)

        files.append(tmp_path / f"{workers}.safetensors")
        write_packed(files[-1], source, packing, describe, taskarith.progress.SILENT, Workers(chunk=100, count=workers))
    assert files[0].read_bytes() == files[1].read_bytes()
    deltas = decoded(files[0], pair[0])
    whole = extract(*map(str, pair), tmp_path / "whole.safetensors", **FORMS[form]).path
    assert all(torch.equal(deltas[name], delta) for name, delta in decoded(whole, pair[0]).items())
    assert taskarith.inspect(files[0]).elements == sum(delta.numel() for delta in deltas.values())
    apply(str(pair[0]), add=[str(files[0])], output_dir=tmp_path / "out")
    apply(str(pair[0]), add=[str(whole)], output_dir=tmp_path / "again")
    assert oracle.differing(oracle.load(tmp_path / "out"), oracle.load(tmp_path / "again")) == []


def test_several_processes_write_the_same(tmp_path, vectors, pair):
    for form in ("exact", "sparse"):
        apply(str(pair[0]), add=[str(vectors[form])], output_dir=tmp_path / form, alpha=0.5)
        apply(str(pair[0]), add=[str(vectors[form])], output_dir=tmp_path / f"{form}2", alpha=0.5, jobs=2)
        assert oracle.differing(oracle.load(tmp_path / form), oracle.load(tmp_path / f"{form}2")) == []


def test_a_killed_extraction_leaves_nothing_that_counts(tmp_path, pair):
    command = [sys.executable, "-m", "taskarith", "extract", *map(str, pair), "-o", str(tmp_path / "v.safetensors")]
    run = subprocess.Popen([*command, "--exact"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / ".v.safetensors.partial").exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.wait()
    if not (tmp_path / "v.safetensors").exists():
        assert subprocess.run([*command, "--exact", "-q"], check=False, capture_output=True).returncode == 0
    assert verify(tmp_path / "v.safetensors").is_sound
    assert [path.name for path in tmp_path.iterdir()] == ["v.safetensors"]
