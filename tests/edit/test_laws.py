"""The laws of exactness over random models: shapes, dtypes, shards, chunks, threads, devices and processes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import oracle
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
from taskarith.checkpoints.publish import publish
from taskarith.edit.apply import apply
from taskarith.edit.edit import Edit
from taskarith.edit.operands import open_edit
from taskarith.edit.plan import plan_edit
from taskarith.edit.run import run_plan
from taskarith.vectors.extract import extract

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
DEVICES = ["cpu", "torch"] + ["cuda"] * torch.cuda.is_available()
shapes = st.lists(st.integers(0, 40), max_size=3).map(tuple)
dtypes = st.sampled_from([*FLOATS, torch.int64, torch.bool])
layouts = st.dictionaries(
    st.text("abcdefgh.", min_size=1, max_size=6), st.tuples(shapes, dtypes), min_size=1, max_size=6
)


def write(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> str:
    """Save tensors as a model folder of one or several files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return str(folder)
    weight_map = {}
    for index in range(min(shards, len(names))):
        file = f"part-{index}.safetensors"
        part = {name: tensors[name] for name in names[index::shards]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return str(folder)


def draw(layout, seed, base=None):
    """Random tensors of a layout; with a base, that plus noise, the same integers."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, (shape, dtype) in layout.items():
        if not dtype.is_floating_point:
            made[name] = torch.ones(shape, dtype=dtype) if base is None else base[name].clone()
        else:
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            values = noise if base is None else base[name].double() + 0.01 * noise
            made[name] = values.to(dtype)
    return made


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    layout=layouts,
    seed=st.integers(0, 1000),
    coefficients=st.lists(st.floats(-2, 2), min_size=1, max_size=4),
    shards=st.lists(st.integers(1, 4), min_size=6, max_size=6),
    dtype=st.sampled_from([None, "F32", "BF16", "F16", "F64"]),
    chunk=st.integers(1, 3000),
    workers=st.integers(1, 4),
    size=st.none() | st.integers(1, 5000),
    device=st.sampled_from(DEVICES),
)
def test_any_edit_equals_the_oracle(
    tmp_path_factory, layout, seed, coefficients, shards, dtype, chunk, workers, size, device
):
    folder = tmp_path_factory.mktemp("law")
    base = draw(layout, seed)
    tuned = [draw(layout, seed + index, base) for index in range(1, len(coefficients) + 1)]
    model = write(folder / "base", base, shards[0])
    operands = [
        f"{write(folder / f't{index}', one, shards[index + 1])}@@{model}:{coefficient!r}"
        for index, (one, coefficient) in enumerate(zip(tuned, coefficients, strict=True))
    ]
    checkpoint = open_checkpoint(Path(model))
    edit = replace(Edit.from_options(operands), alpha=0.9, dtype=dtype, max_shard_size=size)
    plan = plan_edit(checkpoint, open_edit(edit, checkpoint), edit)
    with publish(folder / "out", is_folder=True) as place:
        run_plan(plan, place, device=device, workers=workers, chunk=chunk)
    narrow = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
    expected = {}
    for name, values in base.items():
        if values.dtype.is_floating_point:
            deltas = [one[name].double() - values.double() for one in tuned]
            scaled = [coefficient * 0.9 for coefficient in coefficients]
            expected[name] = oracle.edit(values, deltas, scaled, narrow.get(dtype, values.dtype))
        else:
            expected[name] = values
    assert oracle.differing(oracle.load(folder / "out"), expected) == []
    shutil.rmtree(folder)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(layout=layouts, seed=st.integers(0, 1000), shards=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_base_plus_an_exact_vector_is_the_finetune(tmp_path_factory, layout, seed, shards):
    folder = tmp_path_factory.mktemp("law")
    base = draw(layout, seed)
    tuned = draw(layout, seed + 1, base)
    model, other = write(folder / "base", base, shards[0]), write(folder / "tuned", tuned, shards[1])
    vector = str(folder / "v.safetensors")
    found = extract(model, other, vector, dtype="float64")
    result = apply(model, add=[vector], output_dir=folder / "out")
    if found.inexact == 0:
        assert result.fingerprint == fingerprint_model(Path(other))
    nothing = apply(model, negate=[vector], alpha=0.0, output_dir=folder / "nothing")
    assert nothing.fingerprint == fingerprint_model(Path(model))
    shutil.rmtree(folder)


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_no_number_of_processes_changes_a_bit(tmp_path, jobs):
    layout = {f"layer.{index}": ((37, index + 1), FLOATS[index % 4]) for index in range(12)} | {
        "n": ((3,), torch.int64)
    }
    base = draw(layout, 0)
    model = write(tmp_path / "base", base, 3)
    operands = [f"{write(tmp_path / f't{seed}', draw(layout, seed, base), 2)}@@{model}:0.{seed}" for seed in (1, 2, 3)]
    apply(model, negate=operands, alpha=0.5, output_dir=tmp_path / "out", jobs=jobs, max_shard_size=4000)
    expected = {
        name: oracle.edit(
            values,
            [draw(layout, seed, base)[name].double() - values.double() for seed in (1, 2, 3)],
            [-0.1 * 0.5, -0.2 * 0.5, -0.3 * 0.5],
            values.dtype,
        )
        if values.dtype.is_floating_point
        else values
        for name, values in base.items()
    }
    assert oracle.differing(oracle.load(tmp_path / "out"), expected) == []
