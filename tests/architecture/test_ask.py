"""What transformers makes of a folder: its classes, ties and roles."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from taskarith import apply


@pytest.mark.filterwarnings(
    "ignore:Model has `tie_word_embeddings=True`"
)  # of PEFT, about the model before it is saved
@pytest.mark.parametrize(
    ("target", "moved", "is_told"),
    [
        ("lm_head", "lm_head.weight", False),
        ("decoder.embed_tokens", "decoder.embed_tokens.weight", True),
        ("encoder.embed_tokens", "decoder.embed_tokens.weight", True),  # which the encoder's is loaded from
    ],
)
def test_what_is_tied_to_something_that_the_files_lack_is_tied_to_what_they_have(tmp_path, target, moved, is_told):
    sizes = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    model = T5ForConditionalGeneration(T5Config(**sizes, tie_word_embeddings=False, decoder_start_token_id=0))
    model.save_pretrained(tmp_path / "base")
    tensors = load_file(tmp_path / "base/model.safetensors")
    tensors |= {"decoder.embed_tokens.weight": tensors.pop("shared.weight"), "lm_head.weight": torch.randn(99, 32)}
    save_file(tensors, tmp_path / "base/model.safetensors", {"format": "pt"})
    loaded = T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
    if loaded.lm_head.weight is loaded.shared.weight:
        pytest.skip("this transformers ties the head, not the decoder's embeddings, to what the files lack")
    config = LoraConfig(r=2, target_modules=f"^{target}$", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    result = apply(str(tmp_path / "base"), add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out")
    after = load_file(tmp_path / "out/model.safetensors")
    assert {name for name, tensor in after.items() if not tensor.equal(tensors[name])} == {moved}
    assert bool(result.remarks) is is_told
    assert all("lm_head" not in remark for remark in result.remarks)
