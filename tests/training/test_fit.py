"""Training steps: the next token is learned, of the language part."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import tiny
import torch
from finetuning import Notes, distance, quick, weights

from taskarith.errors import OutputError
from taskarith.evaluation.models import open_model
from taskarith.models.language import has_token_loss
from taskarith.models.load import load_model
from taskarith.training import fit
from taskarith.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("one_thread")


OUTSIDE = ("vision_tower.", "multi_modal_projector.")


@pytest.mark.parametrize("kind", tiny.WITH_PICTURES)
def test_only_the_language_part_is_trained(tmp_path, text, kind):
    base = tiny.save_model(tmp_path / "base", kind)
    notes = Notes()
    result = finetune(str(base), [text], tmp_path / "out", listener=notes, **quick(max_steps=8))
    before, after = weights(base), weights(tmp_path / "out")
    assert after.keys() == before.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if not name.removeprefix("model.").startswith(OUTSIDE)}
    assert "weights outside the language model are not trained: model.vision_tower" in notes.notes[0]
    assert result.final_loss < 5.8  # log(384) is 5.95
    assert _loss(tmp_path / "out", text) < _loss(base, text) - 0.1


def _loss(folder: Path, text: str) -> float:
    loaded = open_model(str(folder), torch.device("cpu"), None, Notes())
    ids = loaded.tokenizer(Path(text).read_text(), return_tensors="pt").input_ids[:, :64]
    with torch.no_grad():
        logits = loaded.model(input_ids=ids).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()


def test_the_next_token_is_learned_whatever_loss_a_model_has(tmp_path, text):
    base = tiny.save_model(tmp_path / "base", "bart")
    assert not has_token_loss(load_model(base, torch.float32))
    finetune(str(base), [text], tmp_path / "out", **quick(max_steps=8))
    assert _loss(tmp_path / "out", text) < _loss(base, text) - 0.1


@pytest.mark.parametrize("error", [partial(OutputError, "the disk is full", "Free some space."), KeyboardInterrupt])
@pytest.mark.parametrize("more", [{"lora": True, "max_steps": 1}, {"max_steps": None, "until_loss": 6.5}])
def test_what_cannot_be_published_is_kept_and_published_by_a_resumed_run(tmp_path, text, phi, monkeypatch, more, error):
    """In the middle of an epoch, and where a loss was reached: nothing is trained again, after Ctrl-C either."""
    options = quick(**more)
    whole = finetune(str(phi), [text], tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(fit, "write_provenance", mock.Mock(side_effect=error()))
        with pytest.raises(type(error())) as raised:
            finetune(str(phi), [text], tmp_path / "out", **options)
    assert raised.value.__notes__ == ["The last checkpoint is kept: run the same command with --resume to continue."]
    resumed = finetune(str(phi), [text], tmp_path / "out", resume=True, **options)
    assert distance(tmp_path / "whole", tmp_path / "out") == 0
    assert (resumed.steps, resumed.final_loss, resumed.tokens) == (whole.steps, whole.final_loss, whole.tokens)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "out"}
