"""One model on all texts: what does not compare or is not finite is named."""

from __future__ import annotations

import math

import pytest
import tiny
from evaluating import SMALL, Notes, gemma, load
from transformers import AutoTokenizer

from taskarith.errors import CheckpointError
from taskarith.evaluation.evaluate import evaluate


def test_a_loss_that_is_not_finite_names_the_sample(texts, tmp_path):
    folder = tiny.save_model(tmp_path / "m")
    model = load(folder)
    model.lm_head.bias.data[:] = math.nan
    model.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"the loss of one\.txt#1 is not finite \(nan\)"):
        evaluate([str(folder)], texts, **SMALL, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_distributions_that_do_not_compare_are_said_to_be_missing(phi, sides, tmp_path):
    def notes_of(first, second):
        notes = Notes()
        found = evaluate([str(first), str(second)], sides, **SMALL | {"prompts": 0}, listener=notes)
        assert not any(record["kind"] == "divergence" for record in found.records)
        return [note for note in notes.notes if note.startswith("KL and agreement")]

    capped = tmp_path / "capped"
    gemma().save_pretrained(capped)
    tiny.tokenizer().save_pretrained(capped)
    why = f"{capped} changes its logits after the output layer"
    assert notes_of(capped, phi) == [f"KL and agreement of {phi} are missing: {why}"]
    other = tiny.save_model(tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["keeper"])
    tokenizer.save_pretrained(other)
    why = f"its tokens differ from those of {phi}"
    assert notes_of(phi, other) == [f"KL and agreement of {other} are missing: {why}"]
    wide = tmp_path / "wide"
    model = load(phi)
    model.resize_token_embeddings(tiny.VOCABULARY + 8)
    model.save_pretrained(wide)
    tiny.tokenizer().save_pretrained(wide)
    why = f"its vocabulary differs in size from that of {phi}"
    assert notes_of(phi, wide) == [f"KL and agreement of {wide} are missing: {why}"]
