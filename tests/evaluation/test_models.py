"""Models to evaluate: folders and adapters, in the precision that they are given."""

from __future__ import annotations

import json
import warnings

import pytest
import tiny
import torch
from evaluating import SMALL, Notes, load, strip, values
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from taskarith.errors import CheckpointError, UsageError
from taskarith.evaluation.evaluate import evaluate


def test_half_precision_is_evaluated_in_float32_on_a_cpu_and_said(tmp_path, texts):
    model, notes = tiny.save_model(tmp_path / "m", dtype=torch.bfloat16), Notes()
    wide = evaluate([str(model)], texts, **SMALL, device="cpu", listener=notes)
    assert f"{model}: on cpu in float32, while its files are bfloat16" in notes.notes
    narrow = evaluate([str(model)], texts, **SMALL, device="cpu", dtype="bfloat16")
    first, second = (values(e, str(model), "one")["loss"] for e in (wide, narrow))
    assert first != second
    assert first == pytest.approx(second, abs=0.05)


def test_an_adapter_is_its_merged_model(phi, texts, tmp_path):
    base = load(phi)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT calls what transformers has renamed
        tuned = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    tuned.peft_config["default"].base_model_name_or_path = str(phi)
    tuned.save_pretrained(tmp_path / "adapter")
    tuned.merge_and_unload().save_pretrained(tmp_path / "merged")
    tiny.tokenizer().save_pretrained(tmp_path / "merged")
    names = [str(tmp_path / "merged"), str(tmp_path / "adapter"), str(phi)]
    notes = Notes()
    evaluation = evaluate(names, texts, **SMALL, listener=notes, output_dir=tmp_path / "out")
    merged, adapter, untouched = (values(evaluation, name, "one") for name in names)
    assert adapter["loss"] == pytest.approx(merged["loss"], abs=1e-5)
    assert adapter["rouge_l_f1"] == merged["rouge_l_f1"]
    assert adapter[f"kl from {names[0]}"] == pytest.approx(0, abs=1e-6)
    assert abs(untouched["loss"] - merged["loss"]) > 1e-3
    written = json.loads((tmp_path / "out" / "taskarith.json").read_text(encoding="utf-8"))
    assert written["models"][1]["base"]["fingerprint"] == written["models"][2]["fingerprint"]
    with pytest.raises(UsageError, match="is an adapter, which cannot be edited in memory"):
        evaluate([names[1]], texts, **SMALL, negate=[names[1]])


def test_a_tokenizer_without_a_pad_token_will_do(phi, texts, tmp_path):
    model = tiny.save_model(tmp_path / "m")
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    assert AutoTokenizer.from_pretrained(model).pad_token is None
    assert strip(evaluate([str(model)], texts, **SMALL)) == strip(evaluate([str(phi)], texts, **SMALL))


def test_an_adapter_without_its_base_or_its_weights_is_refused(phi, texts, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(CheckpointError, match="does not name its base"):
        evaluate([str(adapter)], texts, **SMALL)
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(phi)}))
    with pytest.raises(CheckpointError, match=r"does not contain adapter_model\.safetensors"):
        evaluate([str(adapter)], texts, **SMALL)


def test_an_adapter_of_another_model_or_cut_short_is_refused(phi, texts, tmp_path):
    model = load(phi)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as above
        tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "fc1"]))
    adapter = tmp_path / "adapter"
    tuned.peft_config["default"].base_model_name_or_path = str(phi)
    tuned.save_pretrained(adapter)
    factors = load_file(adapter / "adapter_model.safetensors")
    save_file(dict(sorted(factors.items())[:-1]), adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit its base: Found missing adapter keys"):
        evaluate([str(adapter)], texts, **SMALL)
    other = tiny.save_model(tmp_path / "gpt2", "gpt2")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(other)}))
    with pytest.raises(CheckpointError, match=f"{adapter} does not fit its base"):
        evaluate([str(adapter)], texts, **SMALL)
