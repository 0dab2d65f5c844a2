"""Tests of publishing: what arrives, and what loads again with equal bits."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.apply import apply
from taskarith.errors import CheckpointError, MismatchError, UsageError
from taskarith.hub.push import push
from taskarith.inspection.verify import verify


def test_a_model_arrives_and_loads_again_with_equal_bits(hub, edited):
    result = push(edited, "ann/edited", private=True)
    assert result.is_new
    assert result.url == f"{hub.url}/ann/edited"
    there = hub.repositories["ann/edited"]
    assert there.private
    assert {name: data for name, data in there.files().items() if name != ".gitattributes"} == {
        path.name: path.read_bytes() for path in edited.iterdir()
    }
    back = resolve_model(f"ann/edited@{result.commit}").path
    assert (back / "model.safetensors").read_bytes() == (edited / "model.safetensors").read_bytes()
    assert verify(back).is_sound
    assert verify("ann/edited") == verify(back)
    assert verify("ann/edited").sampled
    assert "subtracted" in ModelCard.load(back / "README.md").text


def test_a_vector_is_read_by_its_id(hub, vector, phi, tmp_path):
    result = push(vector, "ann/forget")
    assert result.files == ("README.md", "forget.safetensors")
    assert "give back the fine-tune" in result.remarks[0]
    apply(str(phi), negate=[str(vector)], output_dir=tmp_path / "path")
    for number, name in enumerate(["ann/forget", "ann/forget:forget.safetensors", f"ann/forget@{result.commit}"]):
        out = apply(str(phi), negate=[name], output_dir=tmp_path / str(number)).path
        assert (out / "model.safetensors").read_bytes() == (tmp_path / "path/model.safetensors").read_bytes()
    for name in ("ann/forget", "ann/forget:forget.safetensors"):
        assert verify(name).is_sound
    with pytest.raises(CheckpointError, match="no such model on the hub"):
        verify("ann/nothing")
    card = ModelCard(hub.repositories["ann/forget"].files()["README.md"].decode())
    assert card.data.tags == ["task-arithmetic"]
    assert "taskarith apply --negate ann/forget:forget.safetensors -o edited" in card.text


def test_an_upload_is_repeated_without_a_new_commit(hub, edited):
    first, second = push(edited, "ann/edited"), push(edited, "ann/edited")
    assert (first.is_new, second.is_new) == (True, False)
    assert first.commit == second.commit


def test_a_changed_output_is_not_published(hub, edited):
    (edited / "README.md").write_text("# Forgotten for good")
    with pytest.raises(MismatchError, match="not as it was written") as caught:
        push(edited, "ann/edited")
    assert "taskarith verify" in caught.value.hint
    assert not hub.repositories


def test_what_is_no_output_is_not_published(hub, phi, tmp_path):
    with pytest.raises(UsageError, match=r"without taskarith.json|of kind 'full'|of kind"):
        push(tmp_path, "ann/x")
    with pytest.raises(CheckpointError, match="there is no folder or file"):
        push(tmp_path / "none", "ann/x")
    assert not hub.requests
