"""Tests of measured numbers on cards."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from taskarith.checkpoints.resolve import resolve_model
from taskarith.errors import MismatchError, UsageError
from taskarith.evaluation.evaluate import evaluate
from taskarith.hub.push import push
from taskarith.inspection.verify import verify
from taskarith.training.finetune import finetune


def test_numbers_are_those_of_this_model(hub, edited, phi, book, tmp_path):
    evaluate([str(edited)], data=[f"forget={book}"], output_dir=tmp_path / "eval", prompts=0, lens=2, device="cpu")
    evaluate([str(phi)], data=[f"forget={book}"], output_dir=tmp_path / "other", prompts=0, device="cpu")
    with pytest.raises(MismatchError, match=r"has numbers of base, and none of these is"):
        push(edited, "ann/edited", results=tmp_path / "other")
    push(edited, "ann/edited")
    push(edited, "ann/edited", results=tmp_path / "eval")
    back = resolve_model("ann/edited").path
    assert verify(back).is_sound
    (index,) = metadata_load(back / "README.md")["model-index"]
    (scores,) = json.loads((tmp_path / "eval" / "results.json").read_text())["scores"].values()
    found = scores["forget"]["loss"]
    values = {m["type"]: m["value"] for result in index["results"] for m in result["metrics"]}
    assert values["loss"] == found["value"]
    assert index["name"] == "ann/edited"
    card = ModelCard.load(back / "README.md")
    shown = {one.metric_type for one in card.data.eval_results}
    assert shown >= {"loss", "perplexity"}
    assert scores["forget"].keys() - shown == {"lens_0", "lens_1", "lens_2"}  # which would fill the card
    assert f"`forget`, `loss`: {found['value']:.4g} (95% interval" in card.text
    assert "No evaluation belongs to this card" not in card.text


def test_changed_numbers_are_refused(hub, edited, book, tmp_path):
    evaluate([str(edited)], data=[f"forget={book}"], output_dir=tmp_path / "eval", prompts=0, device="cpu")
    path = tmp_path / "eval" / "results.json"
    path.write_text(path.read_text().replace('"value": ', '"value": 1'))
    with pytest.raises(MismatchError, match="was changed after it was written"):
        push(edited, "ann/edited", results=tmp_path / "eval")
    with pytest.raises(UsageError, match="is not the evaluation"):
        push(edited, "ann/edited", results=tmp_path)


def test_a_vector_has_no_results(hub, vector, tmp_path):
    with pytest.raises(UsageError, match="no results of its own"):
        push(vector, "ann/forget", results=tmp_path)


def test_an_adapter_has_numbers_too(hub, phi, book, tmp_path):
    finetune(str(phi), data=[str(book)], output_dir=tmp_path / "lora", max_steps=1, block_size=32, lora=True)
    evaluate([str(tmp_path / "lora")], data=[f"forget={book}"], output_dir=tmp_path / "eval", prompts=0, device="cpu")
    push(tmp_path / "lora", "ann/lora", results=tmp_path / "eval")
    assert "model-index" in hub.repositories["ann/lora"].files()["README.md"].decode()


def test_names_of_texts_cannot_become_markup(hub, edited, book, tmp_path):
    name = "<b>`x`"
    evaluate([str(edited)], data=[f"{name}={book}"], output_dir=tmp_path / "eval", prompts=0, device="cpu")
    push(edited, "ann/edited", results=tmp_path / "eval")
    text = hub.repositories["ann/edited"].files()["README.md"].decode()
    assert "`` <b>`x` ``, `loss`" in text
    assert ModelCard(text).data.eval_results[0].dataset_type == "-b-x-"
