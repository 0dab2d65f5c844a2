"""Task vectors and models as values: laws, and the bits of the commands."""

from __future__ import annotations

import math
import shutil

import oracle
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import taskarith
from taskarith import Model, TaskVector
from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.errors import MismatchError, UsageError, VectorError
from taskarith.vectors.extract import extract

COEFFICIENTS = st.floats(-4, 4, allow_subnormal=False)
quick = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def vectors(trio):
    """Two files and a fine-tune without a record of its base."""
    base, first, second, tuned = trio
    return TaskVector.open(first), TaskVector.open(second), TaskVector.between(base, tuned)


def same(one, other):
    return one == other and all(torch.equal(one[name], other[name]) for name in one.shapes)


@quick
@given(c=COEFFICIENTS, d=COEFFICIENTS)
def test_laws_to_the_bit(vectors, c, d):
    a, b, tuned = vectors
    assert same(a + b, b + a)
    assert same(a - b, a + -b)
    assert same(c * a + d * b, b * d + a * c)
    assert same(c * (a + b), c * a + c * b)
    assert same(c * a + d * a, a * (c + d))
    assert same(-1 * -tuned, tuned)
    assert (a - a).norm() == 0
    assert ((a + tuned) - tuned - a).norm() == 0


def test_deltas_are_those_of_the_files(trio, vectors):
    base, first, second, tuned = trio
    before, after, files = oracle.load(base), oracle.load(tuned), [load_file(first), load_file(second)]
    total = 0.5 * vectors[0] - vectors[1] / 4 + vectors[2]
    assert set(total.shapes) == set(before) == {name for name in before if name in total}
    for name, tensor in before.items():
        moved = after[name].double() - tensor.double()
        wanted = 0.5 * files[0][name].double() - 0.25 * files[1][name].double() + moved
        assert torch.allclose(total[name], wanted, rtol=1e-14, atol=0)
        assert total[name].dtype == torch.float64
        assert torch.equal(vectors[2][name], moved)


def test_norms_and_cosines(trio, vectors):
    _, first, second, _ = trio
    flat = [
        torch.cat([load_file(one)[name].double().flatten() for name in load_file(first)]) for one in (first, second)
    ]
    assert vectors[0].norm() == pytest.approx(flat[0].norm().item(), rel=1e-12)
    assert (3 * vectors[0]).norm() == pytest.approx(3 * vectors[0].norm(), rel=1e-12)
    wanted = torch.dot(*flat) / (flat[0].norm() * flat[1].norm())
    assert vectors[0].cosine(vectors[1]) == pytest.approx(wanted.item(), rel=1e-10)
    assert vectors[0].cosine(-2 * vectors[0]) == pytest.approx(-1, abs=1e-12)
    assert vectors[0].cosine(0 * vectors[1]) is None
    assert vectors[0].cosine(vectors[0] - vectors[1]) == pytest.approx(
        (vectors[0].norm() ** 2 - torch.dot(*flat).item()) / (vectors[0].norm() * (vectors[0] - vectors[1]).norm())
    )


def test_an_edited_model_is_that_of_apply(trio, vectors, tmp_path):
    base, first, second, _ = trio
    edited = Model.open(base) - 0.8 * vectors[0] + vectors[1]
    result = edited.save(tmp_path / "a", keep_undo=True)
    wanted = apply(str(base), negate=[f"{first}:0.8"], add=[str(second)], output_dir=tmp_path / "b")
    assert result.undo_bytes
    assert result.fingerprint == wanted.fingerprint
    again = Model.open(base) + (vectors[1] - 0.8 * vectors[0])
    assert again.save(tmp_path / "c").fingerprint == wanted.fingerprint
    loaded, written = edited.load(), AutoModelForCausalLM.from_pretrained(tmp_path / "b", dtype="auto")
    assert oracle.differing(loaded.state_dict(), written.state_dict()) == []
    assert Model.open(base).load(torch.float64).dtype == torch.float64


def test_saving_and_opening(trio, vectors, tmp_path):
    _, first, second, _ = trio
    total = 0.5 * vectors[0] - vectors[1]
    total.save(tmp_path / "sum.safetensors", dtype="float64")
    combine(f"{first}:0.5 - {second}", tmp_path / "wanted.safetensors", dtype="float64")
    assert oracle.differing(load_file(tmp_path / "sum.safetensors"), load_file(tmp_path / "wanted.safetensors")) == []
    opened = TaskVector.open(tmp_path / "sum.safetensors")
    assert all(torch.equal(opened[name], total[name]) for name in total.shapes)
    assert opened.base.fingerprint == total.base.fingerprint
    assert TaskVector.open(f"{tmp_path / 'sum.safetensors'}:0.5") == 0.5 * opened


def test_adapters(adapters, tmp_path):
    base, folders = adapters
    first, second, _ = (TaskVector.open(folder) for folder in folders)
    mixed = 0.7 * first - second
    mixed.save(tmp_path / "mixed")
    saved = TaskVector.open(tmp_path / "mixed")
    assert saved.cosine(mixed) == pytest.approx(1, abs=1e-6)
    assert saved.norm() == pytest.approx(mixed.norm(), rel=1e-6)
    edited = (Model.open(base) + mixed).save(tmp_path / "edited")
    assert (
        edited.fingerprint
        == apply(
            str(base), add=[f"{folders[0]}:0.7"], negate=[str(folders[1])], output_dir=tmp_path / "wanted"
        ).fingerprint
    )


def test_a_vector_file_needs_no_base_before_it_is_used(trio, tmp_path):
    base, first, _, tuned = trio
    copy, after = shutil.copytree(base, tmp_path / "base"), shutil.copytree(tuned, tmp_path / "tuned")
    (after / "taskarith.json").unlink()  # which leads to the base, too
    extract(str(copy), str(after), tmp_path / "v.safetensors")
    vector = TaskVector.open(tmp_path / "v.safetensors")
    shutil.rmtree(copy)
    assert vector.norm() == pytest.approx(TaskVector.between(base, tuned).norm(), rel=1e-6)
    with pytest.raises(MismatchError, match="not found"):
        vector.save(tmp_path / "out.safetensors")
    assert (vector - TaskVector.open(first)).norm() > 0


def test_what_a_notebook_shows(trio, vectors):
    base, first, _, _ = trio
    text = repr(0.5 * vectors[0] - vectors[1])
    assert "0.5 * v0.safetensors - v1.safetensors: " in text
    assert f"{len(load_file(first))} tensors" in text
    assert repr(Model.open(base) - 0.8 * vectors[0]) == f"Model({base} - 0.8 * v0.safetensors)"
    assert repr(-vectors[0]).startswith("TaskVector(- v0")
    assert {"Model", "TaskVector"} <= set(taskarith.__all__)


def test_what_is_refused(trio, vectors, tmp_path):
    base, first, _, tuned = trio
    with pytest.raises(TypeError):
        vectors[0] + 1
    with pytest.raises(TypeError):
        "2" * vectors[0]
    with pytest.raises(TypeError):
        Model.open(base) - str(first)
    with pytest.raises(TypeError):
        True * vectors[0]
    with pytest.raises(ZeroDivisionError):
        vectors[0] / 0
    with pytest.raises(UsageError, match="would be inf"):
        vectors[0] * math.inf
    with pytest.raises(UsageError, match="nothing is added"):
        Model.open(base).save(tmp_path / "out")
    with pytest.raises(KeyError, match="lm_tail"):
        vectors[0]["lm_tail"]
    (shutil.copytree(tuned, tmp_path / "alone") / "taskarith.json").unlink()
    with pytest.raises(UsageError, match="does not record its base"):
        TaskVector.open(tmp_path / "alone")
    with pytest.raises(VectorError):
        TaskVector.open(tmp_path / "nothing.safetensors")
    other = tiny.save_model(tmp_path / "other", "gpt2")
    stranger = TaskVector.between(other, tiny.save_model(tmp_path / "moved", "gpt2", nudge_of=other, seed=1))
    with pytest.raises(MismatchError):
        (Model.open(base) + stranger).save(tmp_path / "out")


def test_the_base_that_is_given_counts_not_the_recorded_one(trio, tmp_path):
    base, _, _, tuned = trio
    other = tiny.save_model(tmp_path / "other", nudge_of=base, seed=9)
    moved = TaskVector.between(other, tuned)
    before, after = oracle.load(other), oracle.load(tuned)
    for name, tensor in before.items():
        assert torch.equal(moved[name], after[name].double() - tensor.double())
