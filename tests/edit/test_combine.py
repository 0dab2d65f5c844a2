"""Combining vectors: the numbers, the header, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import oracle
import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.errors import MismatchError, UsageError, VectorError
from taskarith.inspection.inspect import inspect
from taskarith.inspection.verify import verify
from taskarith.vectors.extract import extract


def expected(base, coefficients, vectors, tuned, dtype):
    before, after = oracle.load(base), oracle.load(tuned)
    files = [load_file(vector) for vector in vectors]
    return {
        name: oracle.edit(
            torch.zeros_like(tensor, dtype=torch.float32),
            [*(file[name].double() for file in files), after[name].double() - tensor.double()],
            coefficients,
            dtype,
        )
        for name, tensor in before.items()
    }


@pytest.mark.parametrize("name", ["float32", "float64", "bfloat16"])
def test_numbers(trio, tmp_path, name):
    base, first, second, tuned = trio
    result = combine(f"{first}:0.6 - {second}:0.4 + {tuned}:0.25", tmp_path / "c.safetensors", dtype=name)
    wanted = expected(base, [0.6, -0.4, 0.25], [first, second], tuned, getattr(torch, name))
    assert oracle.differing(load_file(tmp_path / "c.safetensors"), wanted) == []
    assert result.tensors == len(wanted)
    assert result.nbytes == (tmp_path / "c.safetensors").stat().st_size
    assert result.remarks == ()


def test_the_result_is_a_vector_like_any_other(trio, tmp_path):
    base, first, second, _ = trio
    result = combine(f"{first} - {second}:0.5", tmp_path / "c.safetensors", dtype="float64")
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["base_fingerprint"] == fingerprint_model(base) == result.base.fingerprint
    recorded = json.loads(metadata["finetuned"])["combination"]
    places = [((tmp_path / one["name"]).resolve(), one["coefficient"]) for one in recorded]
    assert places == [(first, 1.0), (second, -0.5)]
    assert inspect(tmp_path / "c.safetensors").norm > 0
    checked = verify(tmp_path / "c.safetensors")
    assert checked.is_sound
    assert "combination" in checked.unsampled
    apply(negate=[str(tmp_path / "c.safetensors")], output_dir=tmp_path / "once")
    apply(str(base), negate=[str(first)], add=[f"{second}:0.5"], output_dir=tmp_path / "both")
    assert oracle.differing(oracle.load(tmp_path / "once"), oracle.load(tmp_path / "both")) == []


def test_the_order_changes_no_bit_and_an_existing_output_stays(trio, tmp_path):
    _, first, second, tuned = trio
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    combine(f"{first}:0.3 + {second} - {tuned}", one)
    combine(f" - {tuned} + {second} + {first}:0.3", two)
    assert oracle.differing(load_file(one), load_file(two)) == []
    done = CliRunner().invoke(app, ["combine", str(first), "-o", str(two)])
    assert done.exit_code == 1
    assert "already exists" in done.stderr
    assert oracle.differing(load_file(one), load_file(two)) == []


def test_a_vector_of_another_model_is_named(trio, tmp_path):
    base, first, _, tuned = trio
    other = tiny.save_model(tmp_path / "other", "phi" if "phi" in str(base) else "llama", nudge_of=base, seed=9)
    extract(str(other), str(tuned), tmp_path / "v.safetensors")
    result = combine(f"{first} + {tmp_path / 'v.safetensors'}", tmp_path / "c.safetensors")
    assert result.base.fingerprint == fingerprint_model(base)
    assert len(result.remarks) == 1
    assert str(other) in result.remarks[0]


def test_what_is_refused(trio, tmp_path):
    _, first, _, tuned = trio
    output = tmp_path / "c.safetensors"
    with pytest.raises(UsageError, match="unknown dtype"):
        combine(str(first), output, dtype="int8")
    stranger = tiny.forget_base(Path(shutil.copytree(tuned, tmp_path / "stranger")))
    with pytest.raises(UsageError, match=f"{stranger} does not record its base") as caught:
        combine(str(stranger), output)
    assert "--base MODEL" in caught.value.hint
    with pytest.raises(VectorError, match="there is no vector"):
        combine(f"{first} + gone.safetensors", output)
    with pytest.raises(MismatchError, match="not finite"):
        combine(f"{first}:1e308 + {first}:1e308", output)
    assert list(tmp_path.iterdir()) == [stranger]
