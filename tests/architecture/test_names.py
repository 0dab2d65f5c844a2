"""Names of tensors, as models have them."""

from __future__ import annotations

import pytest

from taskarith.architecture import names


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("EMBEDDING", ["model.embed_tokens.weight", "wte.weight"], ["wpe.weight", "embed_tokens.bias"]),
        ("HEAD", ["lm_head.weight", "gpt_neox.embed_out.weight"], ["model.lm_heads.weight"]),
        ("EXPERT", ["model.layers.0.mlp.experts.11.down_proj.weight"], ["model.layers.0.mlp.experts.gate_up_proj"]),
        ("FREQUENCIES", ["model.rotary_emb.inv_freq", "original_inv_freq"], ["inv_freq.weight"]),
        ("POSITION_TABLES", ["rotary.cos_cached", "freqs_cis"], ["embed_positions.weight"]),
        ("MASK", ["h.0.attn.bias", "causal_mask"], ["h.0.mlp.c_fc.bias"]),
        ("QUANTISED", ["q_proj.qweight", "q_proj.qzeros"], ["position_ids"]),
    ],
)
def test_patterns_fit_whole_names(pattern, fitting, others):
    fits = getattr(names, pattern).fullmatch
    assert all(map(fits, fitting))
    assert not any(map(fits, others))
