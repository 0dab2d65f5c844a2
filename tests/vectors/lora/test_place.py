"""Which stored tensor each part of an adapter moves, and what would untie a model."""

from __future__ import annotations

import json
import shutil

import oracle
import pytest
import tiny
import torch
from adapters import save_any_adapter
from safetensors.torch import load_file, save_file

from taskarith.edit.apply import apply
from taskarith.errors import MismatchError, VectorError

EMBEDDING = "model.embed_tokens.weight"

pytestmark = pytest.mark.usefixtures("no_warnings_of_peft")


def test_tensors_that_do_not_fit_the_base_are_refused(tmp_path):
    base = tiny.save_model(tmp_path / "base", "qwen2")
    options = {"target_modules": ["q_proj", "embed_tokens"], "lora_bias": False}
    adapter = save_any_adapter(base, tmp_path / "adapter", **options)
    weights = adapter / "adapter_model.safetensors"
    good = load_file(weights)
    stem = "base_model.model.model."

    def refused(error, words, **put):
        save_file(good | put.get("put", {}), weights)
        with pytest.raises(error, match=words):
            apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")

    copy = f"{stem}embed_tokens.base_layer.weight"
    refused(MismatchError, r"a copy of model\.embed_tokens\.weight, which is not that", put={copy: good[copy] * 2})
    both = {f"{stem}embed_tokens.weight": good[copy] * 2}
    refused(VectorError, r"says two different things of model\.embed_tokens\.weight", put=both)
    bias = {f"{stem}layers.0.self_attn.o_proj.bias": torch.zeros(32)}
    refused(MismatchError, r"are not in .*: model\.layers\.0\.self_attn\.o_proj\.bias", put=bias)
    broken = {f"{stem}embed_tokens.lora_embedding_B": torch.full((32, 4), torch.nan)}
    refused(VectorError, "lora_embedding_B .* not finite", put=broken)
    enlarged = {f"{stem}norm.weight": torch.zeros(33)}
    refused(MismatchError, r"model\.norm\.weight \[33\] against \[32\]", put=enlarged)


def test_saved_tensors_are_compared_with_the_base_that_the_adapter_records(tmp_path):
    base = tiny.save_model(tmp_path / "base", "qwen2")
    options = {"target_modules": ["q_proj"], "modules_to_save": ["norm"], "trainable_token_indices": [3]}
    adapter = save_any_adapter(base, tmp_path / "adapter", **options)
    other = tiny.save_model(tmp_path / "other", "qwen2", nudge_of=base, seed=3)
    apply(str(other), add=[str(adapter)], output_dir=tmp_path / "out", dtype="float64")
    before, trained, after = oracle.load(base), load_file(adapter / "adapter_model.safetensors"), oracle.load(other)
    found = oracle.load(tmp_path / "out")
    norm, tokens = "model.norm.weight", "model.embed_tokens.weight"
    expected = after[norm].double() + (trained[f"base_model.model.{norm}"].double() - before[norm].double())
    assert torch.equal(found[norm], expected)
    rows = trained["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"].double()
    assert torch.equal(found[tokens][3], after[tokens][3].double() + (rows[0] - before[tokens][3].double()))
    assert torch.equal(found[tokens][4], after[tokens][4].double())


@pytest.mark.parametrize("how", ["same rows", "other rows", "other width"])
def test_an_adapter_of_an_enlarged_vocabulary_needs_the_rows_of_its_base(tmp_path, how):
    base = tiny.save_model(tmp_path / "base", "qwen2")
    enlarged = _enlarged(base, tmp_path / "enlarged", 8, lambda rows: rows)
    number = len(oracle.load(base)[EMBEDDING]) + 3
    options = {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, number]}}
    adapter = save_any_adapter(enlarged, tmp_path / "adapter", **options)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    change = {
        "same rows": lambda rows: rows,
        "other rows": lambda rows: rows + 1,
        "other width": lambda rows: rows[:, 1:],
    }
    model = _enlarged(base, tmp_path / "model", 8, change[how])
    if how == "same rows":
        apply(str(model), add=[str(adapter)], output_dir=tmp_path / "out")
        before, after = oracle.load(model)[EMBEDDING], oracle.load(tmp_path / "out")[EMBEDDING]
        assert [row for row in range(len(after)) if not torch.equal(before[row], after[row])] == [3, number]
    else:
        with pytest.raises(MismatchError, match=rf"needs {number + 1} rows of .*first ones of .* are not the same"):
            apply(str(model), add=[str(adapter)], output_dir=tmp_path / "out")


def _enlarged(base, folder, rows, change):
    shutil.copytree(base, folder)
    tensors = load_file(base / "model.safetensors")
    for name in (EMBEDDING, "lm_head.weight"):
        new = torch.full((rows, tensors[name].shape[1]), 0.5)
        tensors[name] = change(torch.cat([tensors[name], new])).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": len(tensors[EMBEDDING])}))
    return folder
