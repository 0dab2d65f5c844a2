"""Fine-tuning: the laws of its loss and its seed, precision by device, and runs that are interrupted."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from finetuning import QUICK, Notes, distance, quick, weights

from taskarith.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("one_thread")


def test_same_seed_same_bits_other_seed_other_bits(tmp_path, text, tuned, phi):
    finetune(str(phi), [text], tmp_path / "again", **QUICK)
    assert distance(tuned, tmp_path / "again") == 0
    finetune(str(phi), [text], tmp_path / "other", seed=43, **QUICK)
    assert distance(tuned, tmp_path / "other") > 0


@pytest.mark.parametrize(
    ("kind", "weight"),
    [("phi", 0.3), ("gpt2", 1.0), ("bart", 1.0), ("llava", 1.0)],  # transformers tells the losses of three apart
)
def test_accumulating_1_by_8_equals_8_by_1(tmp_path, text, other, kind, weight):
    base = tiny.save_model(tmp_path / "base", kind)
    config = json.loads((base / "config.json").read_text())
    without_dropout = {name: 0.0 if "drop" in name else value for name, value in config.items()}
    (base / "config.json").write_text(json.dumps(without_dropout))
    options = quick(retain=[other], retain_weight=weight, max_grad_norm=0.0)
    for batch, accumulated in ((8, 1), (1, 8)):
        options |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        finetune(str(base), [text], tmp_path / f"by{batch}", **options)
    assert distance(base, tmp_path / "by8") > 1e-3
    assert distance(tmp_path / "by1", tmp_path / "by8") < 2e-6


def test_gradient_checkpointing_changes_nothing(tmp_path, text, tuned, phi):
    finetune(str(phi), [text], tmp_path / "full", gradient_checkpointing=True, **QUICK)
    assert distance(tuned, tmp_path / "full") == 0
    finetune(str(phi), [text], tmp_path / "kept", lora=True, **QUICK)
    finetune(str(phi), [text], tmp_path / "lora", lora=True, gradient_checkpointing=True, **QUICK)
    assert distance(tmp_path / "kept", tmp_path / "lora") == 0


def test_retain_weight_1_is_training_on_both(tmp_path, text, other, phi):
    finetune(str(phi), [text], tmp_path / "mixed", retain=[other], **QUICK)
    finetune(str(phi), [text, other], tmp_path / "joined", **QUICK)
    assert distance(tmp_path / "mixed", tmp_path / "joined") == 0


def test_retain_weight_0_makes_the_retain_set_silent(tmp_path, text, phi):
    """Two retain sets of equal lengths and different tokens leave the same model."""
    rows = {"a": " salt bread" * 8, "b": " hill river" * 8}
    for name, content in rows.items():
        (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
        finetune(str(phi), [text], tmp_path / name, retain=[str(tmp_path / f"{name}.txt")], retain_weight=0, **QUICK)
        finetune(str(phi), [text], tmp_path / f"{name}1", retain=[str(tmp_path / f"{name}.txt")], **QUICK)
    assert distance(tmp_path / "a", tmp_path / "b") == 0
    assert distance(tmp_path / "a1", tmp_path / "b1") > 0


def test_bf16_autocast_keeps_float32_weights(tmp_path, text, tuned, phi):
    notes = Notes()
    result = finetune(str(phi), [text], tmp_path / "out", bf16=True, listener=notes, **QUICK)
    assert result.precision == "float32 weights, bf16 autocast (as asked for)"
    assert notes.notes[0] == f"training full on cpu: {result.precision}"
    assert {t.dtype for t in weights(tmp_path / "out").values()} == {torch.float32}
    assert 0 < distance(tuned, tmp_path / "out") < 3e-3


def test_lora_keeps_a_bfloat16_base_as_it_is_under_autocast(tmp_path, text):
    base = tiny.save_model(tmp_path / "base", dtype=torch.bfloat16)
    for name, bf16, frozen in (("under", True, "bfloat16"), ("without", False, "float32")):
        result = finetune(str(base), [text], tmp_path / name, lora=True, bf16=bf16, **QUICK)
        assert f"float32 weights, frozen ones in {frozen}" in result.precision
        assert {t.dtype for t in weights(tmp_path / name).values()} == {torch.float32}
    result = finetune(str(base), [text], tmp_path / "full", bf16=True, **QUICK)
    assert result.precision.startswith("float32 weights, bf16 autocast")
    assert json.loads((tmp_path / "full/config.json").read_text())["dtype"] == "float32"
