"""Tests of names of vectors: paths, and what repositories of the hub hold."""

from __future__ import annotations

import json
import shutil

import pytest
from adapters import save_adapter

from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.errors import CheckpointError, VectorError, named_by_id
from taskarith.inspection.inspect import inspect
from taskarith.inspection.verify import verify
from taskarith.spec import ModelRef, OperandRef, parse_operand
from taskarith.vectors.extract import extract
from taskarith.vectors.locate import hub_file, locate_vector, recorded_name

_COMMIT = "0123456789" * 4


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the hub, as a download leaves it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def repo(cache):
    """The snapshot of an empty repository, org/vec."""
    snapshot = cache / "models--org--vec" / "snapshots" / _COMMIT
    snapshot.mkdir(parents=True)
    (cache / "models--org--vec" / "refs").mkdir()
    (cache / "models--org--vec" / "refs" / "main").write_text(_COMMIT)
    return snapshot


@pytest.fixture(scope="module")
def vector(tmp_path_factory, phi, phi_tuned):
    path = tmp_path_factory.mktemp("vector") / "v.safetensors"
    extract(str(phi), str(phi_tuned), path)
    return path


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("org/vec:v.safetensors", (ModelRef("org/vec"), "v.safetensors")),
        ("org/vec@main:v.safetensors", (ModelRef("org/vec", "main"), "v.safetensors")),
        ("org/vec:a/v.safetensors@v1", (ModelRef("org/vec", "v1"), "a/v.safetensors")),
        ("org/vec@a:v.safetensors@b", None),
        ("org/vec:../v.safetensors", None),
        ("org/vec:/v.safetensors", None),
        ("org/vec:a//v.safetensors", None),
        ("org/vec:*.safetensors", None),
        ("org/vec:v.bin", None),
        ("./org/vec:v.safetensors", None),
        ("vec:v.safetensors", None),
        ("org/vec", None),
    ],
)
def test_the_grammar_of_files_on_the_hub(name, place):
    assert hub_file(name) == place


def test_a_coefficient_and_a_base_may_follow():
    assert parse_operand("org/vec:v.safetensors:0.5") == OperandRef("org/vec:v.safetensors", 0.5)
    assert parse_operand("org/vec@main:0.5") == OperandRef("org/vec@main", 0.5)
    found = parse_operand("org/vec:v.safetensors@v1@@org/base@main:2", -1.0)
    assert found == OperandRef("org/vec:v.safetensors@v1", -2.0, base="org/base@main")


def test_an_existing_path_is_taken_as_it_is(tmp_path, monkeypatch, vector):
    (tmp_path / "org").mkdir()
    shutil.copy(vector, tmp_path / "org" / "vec:v.safetensors")
    monkeypatch.chdir(tmp_path)
    assert locate_vector("org/vec:v.safetensors").name == "vec:v.safetensors"


def test_the_only_vector_of_a_repository_is_found(repo, vector):
    shutil.copy(vector, repo / "v.safetensors")
    assert locate_vector("org/vec") == repo / "v.safetensors"
    assert locate_vector(f"org/vec@{_COMMIT}:v.safetensors") == repo / "v.safetensors"


def test_several_vectors_are_listed(repo, vector):
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(vector, repo / name)
    with pytest.raises(VectorError, match=r"holds 2 task vectors: a.safetensors, b.safetensors") as caught:
        locate_vector("org/vec")
    assert caught.value.hint == "Name one, as in org/vec:a.safetensors"


def test_a_repository_without_a_vector_is_refused(repo):
    (repo / "README.md").write_text("# x")
    with pytest.raises(VectorError, match="holds no model, adapter or task vector"):
        locate_vector("org/vec")
    with pytest.raises(VectorError, match=r"org/vec has no file v.safetensors"):
        locate_vector("org/vec:v.safetensors")


def test_a_repository_that_is_not_here_is_refused(cache):
    with pytest.raises(CheckpointError, match="could not be loaded from the hub or its cache"):
        locate_vector("org/other:v.safetensors")


@pytest.mark.parametrize("name", ["runs/v.safetensors", "/x/org/vec", "v", "a/b/c"])
def test_other_names_are_paths_that_lead_nowhere(name, cache):
    with pytest.raises(VectorError, match="there is no vector"):
        locate_vector(name)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("{vector}:abc", "'abc' is no coefficient: give a number, as in {vector}:0.5"),
        ("{vector}:0.5-lora", "put spaces around"),
        ("{vector} -lora", "Put spaces around every sign"),
        ("runs/v +lora", "Put spaces around every sign"),
    ],
)
def test_half_a_sign_or_coefficient_is_named(name, advice, vector, cache):
    with pytest.raises(VectorError, match="there is no vector") as caught:
        locate_vector(name.format(vector=vector))
    assert advice.format(vector=vector) in caught.value.hint


def test_an_edit_by_id_has_the_bits_of_one_by_path_and_can_be_repeated(repo, vector, phi, tmp_path):
    shutil.copy(vector, repo / "v.safetensors")
    apply(str(phi), negate=[f"{vector}:0.5"], output_dir=tmp_path / "path")
    found = apply(str(phi), negate=["org/vec:v.safetensors:0.5"], output_dir=tmp_path / "id")
    assert (tmp_path / "id/model.safetensors").read_bytes() == (tmp_path / "path/model.safetensors").read_bytes()
    record = json.loads((found.path / "taskarith.json").read_text())
    assert record["operands"][0]["name"] == f"org/vec@{_COMMIT}:v.safetensors"
    assert verify(found.path).sampled > 0
    assert not verify(found.path).unsampled
    assert f"`org/vec@{_COMMIT}:v.safetensors`" in (found.path / "README.md").read_text()


def test_the_base_that_a_vector_on_the_hub_records_is_used(repo, phi, phi_tuned, tmp_path):
    extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors")  # by its fingerprint the base is found again
    shutil.copy(tmp_path / "v.safetensors", repo)
    assert apply(add=["org/vec"], output_dir=tmp_path / "out").actions["edited"] > 0


def test_an_adapter_on_the_hub_is_a_vector(repo, phi, tmp_path):
    save_adapter(phi, tmp_path / "a", seed=1)
    shutil.copytree(tmp_path / "a", repo, dirs_exist_ok=True)
    combine("org/vec:0.5", tmp_path / "mixed", base=str(phi))
    record = json.loads((tmp_path / "mixed" / "taskarith.json").read_text())
    assert record["operands"][0]["name"] == f"org/vec@{_COMMIT}"


def test_a_vector_on_the_hub_can_be_inspected(repo, vector):
    shutil.copy(vector, repo / "v.safetensors")
    assert inspect("org/vec").kind == "vector"
    assert inspect("org/vec:v.safetensors").base.fingerprint == inspect(str(vector)).base.fingerprint


def test_a_record_names_paths_as_they_are(tmp_path, vector):
    assert recorded_name(OperandRef(str(vector), 1.0), str(vector)) == str(vector.resolve())


def test_messages_name_the_id_and_not_the_cache(repo, vector, tmp_path):
    (repo / "v.safetensors").write_bytes(b"no safetensors file")
    with pytest.raises(CheckpointError) as caught:
        locate_vector("org/vec:v.safetensors") and inspect("org/vec:v.safetensors")
    assert f"org/vec@{_COMMIT}:v.safetensors" in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert named_by_id(f"see {repo}, and /models--x") == f"see org/vec@{_COMMIT}, and /models--x"
