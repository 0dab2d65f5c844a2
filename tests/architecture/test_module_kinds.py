"""Kinds of modules: as the class says, else by names."""

from __future__ import annotations

import json

import pytest
import tiny

from benchmarks.architectures.population import build
from taskarith.architecture.module_kinds import kinds_of
from taskarith.checkpoints.checkpoint import open_checkpoint


@pytest.mark.parametrize("is_known", [True, False])
def test_kinds_of_other_architectures(tmp_path, is_known):
    kinds = {
        "transformer.wte.weight": "embedding",
        "transformer.wpe.weight": "embedding",
        "transformer.h.0.ln_1.weight": "norm",
        "transformer.h.0.attn.c_attn.bias": "attention",
        "transformer.h.0.mlp.c_fc.weight": "mlp",
        "transformer.ln_f.bias": "norm",
    }
    path = tiny.save_model(tmp_path / "model", "gpt2")
    if not is_known:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"model_type": "unheard of"}))
    found = kinds_of(open_checkpoint(path))
    assert {name: found[name] for name in kinds} == kinds


def test_a_head_and_norms_are_what_the_class_says_whatever_their_names_are(tmp_path):
    build("bert").save_pretrained(tmp_path / "bert")
    found = kinds_of(open_checkpoint(tmp_path / "bert"))
    assert found["cls.predictions.bias"] == "head"
    assert found["cls.predictions.transform.LayerNorm.bias"] == "norm"
    assert found["bert.embeddings.token_type_embeddings.weight"] == "embedding"
    assert found["bert.encoder.layer.0.intermediate.dense.weight"] == "other"  # nothing says what it is
    build("gpt_neox").save_pretrained(tmp_path / "neox")
    found = kinds_of(open_checkpoint(tmp_path / "neox"))
    assert {found[name] for name in found if "embed_out" in name or "lm_head" in name} == {"head"}
