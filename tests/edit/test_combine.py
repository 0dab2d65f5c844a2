"""Combining vectors: the numbers, the header, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import oracle
import pytest
import tiny
import torch
from adapters import TARGETS, merged, save_adapter
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
from taskarith.spec import OperandRef, parse_combination
from taskarith.vectors.extract import extract


@pytest.fixture(scope="module", params=["phi", "llama"])
def trio(request, tmp_path_factory):
    """A base (Llama's head is tied) and three vectors of it: two files and a fine-tuned folder."""
    room = tmp_path_factory.mktemp(request.param)
    base = tiny.save_model(room / "base", request.param, max_shard_size="30KB")
    tuned = [tiny.save_model(room / f"tuned{seed}", request.param, nudge_of=base, seed=seed) for seed in (1, 2, 3)]
    for number, dtype in ((0, "float64"), (1, "float32")):
        extract(str(base), str(tuned[number]), room / f"v{number}.safetensors", dtype=dtype)
    return base, room / "v0.safetensors", room / "v1.safetensors", tuned[2]


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


def test_the_command(trio, tmp_path):
    _, first, second, _ = trio
    arguments = ["combine", str(first), "-", f"{second}:0.4", "-o", str(tmp_path / "c.safetensors"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "dense"
    combine(f"{first} - {second}:0.4", tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert oracle.differing(load_file(tmp_path / "c.safetensors"), again) == []


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


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def adapters(request, tmp_path_factory):
    """A base and three adapters of different ranks, scales and targets."""
    room, kind = tmp_path_factory.mktemp("adapters"), request.param
    base = tiny.save_model(room / "base", kind)
    options = [{"r": 3}, {"r": 5, "use_rslora": True}, {"r": 2, "target_modules": TARGETS[kind][:1]}]
    defaults = {"target_modules": TARGETS[kind], "lora_alpha": 8}
    return base, [save_adapter(base, room / f"a{i}", i, **(defaults | one)) for i, one in enumerate(options)]


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_adapters_side_by_side(adapters, tmp_path, name):
    base, (a, b, c) = adapters
    result = combine(f"{a}:0.6 - {b}:0.4 + {c}", tmp_path / "sum", dtype=name)
    assert (result.kind, result.rank, result.energy) == ("lora", 10, 1.0)
    apply(str(base), add=[f"{a}:0.6", str(c)], negate=[f"{b}:0.4"], output_dir=tmp_path / "each", dtype="float64")
    apply(add=[str(tmp_path / "sum")], output_dir=tmp_path / "once", dtype="float64")
    each, once, before = (oracle.load(folder) for folder in (tmp_path / "each", tmp_path / "once", base))
    for key, tensor in each.items():
        delta = tensor - before[key].double()
        error = (once[key] - tensor).norm() / delta.norm().clamp(min=1e-30)
        assert float(error) < (1e-6 if name == "float32" else 1e-12), key
    loaded = merged(base, tmp_path / "sum")
    for key, tensor in once.items():
        found = loaded[key if key in loaded else f"transformer.{key}"]
        torch.testing.assert_close(found, tensor.float(), rtol=1e-5, atol=1e-6)


def test_an_adapter_of_lower_rank_is_the_best_one(adapters, tmp_path):
    base, (a, b, _) = adapters
    whole, few = combine(f"{a} + {b}", tmp_path / "whole"), combine(f"{a} + {b}", tmp_path / "few", rank=2)
    assert (whole.rank, few.rank) == (8, 2)
    assert 0 < few.energy < 1
    for name in ("whole", "few"):
        apply(str(base), add=[str(tmp_path / name)], output_dir=tmp_path / f"out-{name}", dtype="float64")
    before, after, low = (oracle.load(folder) for folder in (base, tmp_path / "out-whole", tmp_path / "out-few"))
    kept = total = 0.0
    for key, tensor in after.items():
        delta = tensor - before[key].double()
        if not delta.any():
            continue
        sizes = torch.linalg.svdvals(delta)
        kept, total = kept + float((sizes[:2] ** 2).sum()), total + float((sizes**2).sum())
        left_out = (low[key] - tensor).norm()
        assert float(left_out) == pytest.approx(float((sizes[2:] ** 2).sum().sqrt()), rel=1e-4)
    assert few.energy == pytest.approx(kept / total, rel=1e-6)


def test_what_an_adapter_folder_cannot_hold(adapters, trio, tmp_path):
    base, (a, b, _) = adapters
    with pytest.raises(UsageError, match="does not fit"):
        combine(f"{a} + {b}", tmp_path / "sum", rank=0)
    with pytest.raises(UsageError, match="does not fit"):
        combine(f"{a} + {b}", tmp_path / "sum.safetensors", rank=4)
    with pytest.raises(UsageError, match="these are none"):
        combine(f"{trio[1]} + {trio[2]}", tmp_path / "sum")
    biased = save_adapter(base, tmp_path / "biased", target_modules=TARGETS["llama"] + TARGETS["gpt2"], use_dora=True)
    with pytest.raises(UsageError, match="no factors of their own"):
        combine(f"{a} + {biased}", tmp_path / "sum")
    assert [path.name for path in tmp_path.iterdir()] == ["biased"]


def test_expressions(tmp_path, monkeypatch):
    assert parse_combination("a:0.6 - b:0.4") == [OperandRef("a", 0.6), OperandRef("b", -0.4)]
    assert parse_combination(" - a-b.safetensors + c+d") == [OperandRef("a-b.safetensors", -1), OperandRef("c+d", 1)]
    assert parse_combination("C + B - A") == [OperandRef("C", 1), OperandRef("B", 1), OperandRef("A", -1)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with blank").mkdir()
    assert parse_combination("with blank - x:2") == [OperandRef("with blank", 1), OperandRef("x", -2)]
    for text in ("", "  ", "a -", "a + - b", "+", "a:nan", "a - b:inf"):
        with pytest.raises(UsageError):
            parse_combination(text)
