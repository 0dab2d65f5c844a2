"""The laws of exactness over random models: shapes, dtypes, shards, chunks, threads, devices and processes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import oracle
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_models import FLOATS, draw, write
from safetensors.torch import load_file, save_file

from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
from taskarith.checkpoints.publish import publish
from taskarith.edit.apply import apply
from taskarith.edit.edit import Edit
from taskarith.edit.operands import open_edit
from taskarith.edit.plan import plan_edit
from taskarith.edit.run import run_plan
from taskarith.errors import MismatchError
from taskarith.vectors.extract import extract

DEVICES = ["cpu", "torch"] + ["cuda"] * torch.cuda.is_available()
shapes = st.lists(st.integers(0, 40), max_size=3).map(tuple)
dtypes = st.sampled_from([*FLOATS, torch.int64, torch.bool])
layouts = st.dictionaries(
    st.text("abcdefgh.", min_size=1, max_size=6), st.tuples(shapes, dtypes), min_size=1, max_size=6
)


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


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    order=st.permutations(range(4)),
    chunk=st.integers(500, 50_000),
    workers=st.integers(1, 4),
    shard_size=st.none() | st.integers(1, 200_000),
    device=st.sampled_from(["cpu", "torch"] + ["cuda"] * torch.cuda.is_available()),
)
def test_nothing_but_the_numbers_changes_a_bit(
    tmp_path_factory, phi, operands4, order, chunk, workers, shard_size, device
):
    names, expected = operands4
    folder = tmp_path_factory.mktemp("law")
    base = open_checkpoint(phi)
    edit = replace(Edit.from_options([names[index] for index in order]), alpha=0.7, max_shard_size=shard_size)
    plan = plan_edit(base, open_edit(edit, base), edit)
    with publish(folder, is_folder=True) as place:
        run_plan(plan, place, device=device, workers=workers, chunk=chunk)
    assert fingerprint_model(folder) == expected
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def operands4(tmp_path_factory, phi, phi_tuned):
    folder = tmp_path_factory.mktemp("four")
    names = [
        f"{tiny.save_model(folder / f't{s}', nudge_of=phi, seed=s)}:{w}" for s, w in ((7, 0.3), (8, -0.6), (9, 1.1))
    ]
    names.append(f"{phi_tuned}:0.25")
    return names, apply(str(phi), add=names, alpha=0.7, output_dir=folder / "out").fingerprint


def test_results_that_are_not_finite_are_refused_and_nothing_is_left(tmp_path, phi):
    big = tmp_path / "big"
    shutil.copytree(phi, big)
    tensors = load_file(big / "model.safetensors")
    for name in ("lm_head.bias", "model.final_layernorm.bias"):
        tensors[name][0] = 3e38
    save_file(tensors, big / "model.safetensors", metadata={"format": "pt"})
    match = r"2 tensors of the result are not finite: lm_head\.bias, model\.final_layernorm\.bias"
    with pytest.raises(MismatchError, match=match):
        apply(str(phi), add=[f"{big}@@{phi}:2"], output_dir=tmp_path / "out")
    with pytest.raises(MismatchError, match="dtype overflows") as caught:
        apply(str(phi), add=[f"{big}@@{phi}"], dtype="float16", output_dir=tmp_path / "out")
    assert "--dtype float32" in caught.value.hint
    assert sorted(tmp_path.iterdir()) == [big]
