"""An adapter of tied tensors moves them once; what would untie a model is refused."""

from __future__ import annotations

import oracle
import pytest
import tiny
import torch
from adapters import save_any_adapter
from peft import PeftModel
from transformers import AutoModelForCausalLM

from taskarith.edit.apply import apply
from taskarith.errors import VectorError

pytestmark = pytest.mark.usefixtures("no_warnings_of_peft")


def test_tied_adapters_are_applied_once(tmp_path):
    base = tiny.save_model(tmp_path / "base", "llama")
    targets = ["embed_tokens", "lm_head"]
    adapter = save_any_adapter(base, tmp_path / "adapter", target_modules=targets, ensure_weight_tying=True)
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    embedding = wrapped.get_input_embeddings()
    ids = torch.arange(8)
    apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")
    edited = oracle.load(tmp_path / "out")["model.embed_tokens.weight"]
    torch.testing.assert_close(edited[ids], embedding(ids).detach(), rtol=1e-6, atol=1e-6)  # once, as PEFT trains it


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_modules": ["embed_tokens", "lm_head"]}, "says different things of model.embed_tokens.weight and"),
        (
            {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
            r"saves lm_head.weight as a module of its own",
        ),
        (
            {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
            r"saves model\.embed_tokens\.weight as a",
        ),
    ],
)
def test_what_would_untie_a_tied_model_is_refused(tmp_path, options, words):
    base = tiny.save_model(tmp_path / "base", "llama")
    adapter = save_any_adapter(base, tmp_path / "adapter", **options)
    with pytest.raises(VectorError, match=words):
        apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")
