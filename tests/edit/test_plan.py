"""The plan of an edit: whatever decides a byte of the output decides its fingerprint."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
from merging import method

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.edit.edit import Edit
from taskarith.edit.operands import open_edit
from taskarith.edit.plan import plan_edit
from taskarith.merging.methods import LINEAR, Method, parse_method
from taskarith.spec import OperandRef
from taskarith.vectors.extract import extract


def test_another_scale_is_another_plan(phi, phi_tuned):
    base = open_checkpoint(phi)
    scales = ({}, {"mlp": 0.5}, {"mlp": 0.25}, {"mlp": 1.0})
    edits = [Edit.from_options([str(phi_tuned)], scale=scale) for scale in scales]
    fingerprints = {plan_edit(base, open_edit(edit, base), edit).fingerprint() for edit in edits}
    assert len(fingerprints) == 4  # a factor of 1 changes nothing but the record


def test_a_resumed_run_must_have_the_same_method(phi, tuned):
    base = open_checkpoint(phi)
    edit = Edit.from_options(tuned[:2])
    operands = open_edit(edit, base)
    hows: list[Method] = [
        LINEAR,
        method("ties", 0.2),
        method("ties", 0.3),
        method("dare_ties", 0.3),
        method("dare_ties", 0.3, seed=1),
    ]
    assert len({plan_edit(base, operands, replace(edit, method=how)).fingerprint() for how in hows}) == len(hows)


def test_a_method_looks_at_the_scale_of_vectors_that_do_not_move_a_tensor(sharded):
    base = open_checkpoint(sharded / "base")
    vector, method = str(sharded / "v.safetensors"), parse_method("dare_linear", density=1.0, normalize=True)
    fingerprints = set()
    for scale in ({}, {"mlp": (0.5,)}, {"mlp": (0.0,)}):
        edit = Edit((OperandRef(vector, 0.5), OperandRef(vector, 0.5, scale)), method=method)
        operands = open_edit(edit, base)
        operands[1].vector.shapes.pop(next(name for name in operands[1].vector.shapes if "mlp" in name))
        fingerprints.add(plan_edit(base, operands, edit).fingerprint())
    assert len(fingerprints) == 3


def test_the_release_is_part_of_the_plan(sharded, monkeypatch):
    base = open_checkpoint(sharded / "base")
    edit = Edit.from_options([str(sharded / "v.safetensors:0.5")])
    plan = plan_edit(base, open_edit(edit, base), edit)
    before = plan.fingerprint()
    monkeypatch.setattr("taskarith.edit.plan.release", lambda: "another")
    assert plan.fingerprint() != before


@pytest.mark.parametrize(("size", "count"), [(1, 33), (10**9, 1), (40_000, None)])
def test_files_are_filled_up_to_their_size_and_a_larger_tensor_has_its_own(phi, phi_tuned, size, count):
    base = open_checkpoint(phi)
    edit = replace(Edit.from_options([str(phi_tuned)]), max_shard_size=size)
    plan = plan_edit(base, open_edit(edit, base), edit)
    assert [one.source.name for one in plan.tensors] == list(base.tensors)
    for shard in plan.shards:
        assert len(shard.tensors) == 1 or sum(one.nbytes for one in shard.tensors) <= size
        assert [one.offset - len(shard.header) for one in shard.tensors[:1]] == [0]
        ends = [one.offset + one.nbytes for one in shard.tensors]
        assert [one.offset for one in shard.tensors[1:]] == ends[:-1]
        assert shard.nbytes == ends[-1]
    names = [shard.name for shard in plan.shards]
    if count == 1:
        assert names == ["model.safetensors"]
    else:
        assert names == [f"model-{n:05}-of-{len(names):05}.safetensors" for n in range(1, len(names) + 1)]
        assert count is None or len(names) == count
    assert plan.write_bytes == sum(shard.nbytes for shard in plan.shards)


@pytest.mark.parametrize(
    ("options", "actions"),
    [
        ({}, {"edited": 33}),
        ({"alpha": 0.0}, {"copied": 33}),
        ({"alpha": 0.0, "dtype": "BF16"}, {"converted": 33}),
        ({"scale": {"mlp": (0.0,)}}, {"edited": 25, "copied": 8}),
    ],
)
def test_what_moves_nothing_is_copied_or_converted(phi, phi_tuned, options, actions):
    base, edit = open_checkpoint(phi), replace(Edit.from_options([str(phi_tuned)]), **options)
    plan = plan_edit(base, open_edit(edit, base), edit)
    assert plan.actions == actions
    sizes = {"BF16": 2}.get(edit.dtype, 4)
    assert sum(one.nbytes for one in plan.tensors) == sizes * sum(one.elements for one in base.tensors.values())


@pytest.mark.parametrize(
    ("model", "add", "models"),
    [
        ("base", "tuned", 2),
        ("base", "tuned@@base", 2),
        ("other1", "tuned@@base", 3),
        ("tuned", "tuned@@base", 2),  # nothing is read twice
        ("base", "v32.safetensors", 2),
        ("base", "v64.safetensors", 3),  # twice the bytes of the base
        ("other1", "v16.safetensors", 1.5),
    ],
)
def test_what_is_read_is_counted_once(tmp_path, phi, model, add, models):
    def place(name):
        return tmp_path / name if "." in name else {"base": phi, **tuned}[name]

    tuned = {name: tiny.save_model(tmp_path / name, nudge_of=phi, seed=len(name)) for name in ("tuned", "other1")}
    for bits, dtype in (("16", "bfloat16"), ("32", "float32"), ("64", "float64")):
        extract(str(phi), str(tuned["tuned"]), tmp_path / f"v{bits}.safetensors", dtype=dtype)
    base = open_checkpoint(place(model))
    edit = Edit.from_options(["@@".join(str(place(name)) for name in add.split("@@"))])
    plan = plan_edit(base, open_edit(edit, base), edit)
    assert plan.read_bytes == models * sum(entry.nbytes for entry in base.tensors.values())
