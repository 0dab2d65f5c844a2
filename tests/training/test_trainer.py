"""Fine-tuning: the laws of its loss and its seed, precision by device, and runs that are interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from finetuning import QUICK, Notes, distance, quick, weights

from taskarith.checkpoints.provenance import read_provenance
from taskarith.errors import UsageError
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


def losses(out: Path) -> list[float]:
    """Return what the record of a run says of its losses and tokens."""
    record = read_provenance(out)
    return [record[name] for name in ("first_loss", "data_loss", "final_loss", "tokens")]


@pytest.mark.parametrize("more", [{}, {"lora": True}, {"retain_weight": 0.3}, {"gradient_accumulation_steps": 3}])
def test_packed_rows_are_trained_like_padded_ones(tmp_path, ragged, more):
    """Every step has the same rows, which keep their positions, prompts and weights, and do not see each other."""
    base, (data, retain) = str(tiny.save_model(tmp_path / "base", "llama")), ragged
    options = quick(block_size=128, max_steps=4, max_grad_norm=0.0, retain=[retain], until_loss=0.1) | more
    for name, packing in (("padded", False), ("packed", True)):
        finetune(base, [data], tmp_path / name, packing=packing, **options)
    assert losses(tmp_path / "packed") == pytest.approx(losses(tmp_path / "padded"), rel=1e-6)
    assert distance(tmp_path / "padded", tmp_path / "packed") < 2e-6


def test_batches_of_similar_lengths_in_the_order_of_the_epoch_after_a_resume_too(tmp_path, ragged, phi):
    options = quick(block_size=128, max_steps=16, packing=True, group_by_length=True)
    finetune(str(phi), list(ragged), tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        finetune(str(phi), list(ragged), tmp_path / "out", save_steps=9, listener=Notes(10), **options)
    finetune(str(phi), list(ragged), tmp_path / "out", resume=True, **options)
    assert distance(tmp_path / "whole", tmp_path / "out") == 0


@pytest.mark.parametrize("option", ["packing", "group_by_length"])
def test_options_that_change_nothing_say_so(tmp_path, text, ragged, phi, option):
    notes, name = Notes(), option.replace("_", "-")
    finetune(str(phi), [text], tmp_path / "out", listener=notes, **quick(**{option: True}))
    assert f"--{name} changes nothing: rows of 32 tokens each have no padding" in notes.notes
    options = quick(block_size=128, per_device_train_batch_size=1, **{option: True})
    finetune(str(phi), [ragged[0]], tmp_path / "one", listener=notes, **options)
    assert f"--{name} changes nothing: a batch of one row has no padding" in notes.notes


def test_options_of_batches_that_cannot_be_are_refused(tmp_path, ragged, text):
    base = str(tiny.save_model(tmp_path / "base", "mamba"))
    with pytest.raises(UsageError, match="--packing does not work with MambaForCausalLM"):
        finetune(base, [text], tmp_path / "out", **quick(packing=True))
    with pytest.raises(UsageError, match="--stride is set, but the data are rows"):
        finetune(base, list(ragged), tmp_path / "out", **quick(stride=16, block_size=128))
    with pytest.raises(UsageError, match="--stride 33 would leave text out: a block holds 32 tokens"):
        finetune(base, [text], tmp_path / "out", **quick(stride=33))
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_bf16_autocast_keeps_float32_weights(tmp_path, text, tuned, phi):
    notes = Notes()
    result = finetune(str(phi), [text], tmp_path / "out", listener=notes, **quick(bf16=True))
    assert result.precision == "float32 weights, bf16 autocast (as asked for)"
    assert notes.notes[0] == f"training full on cpu: {result.precision}"
    assert {t.dtype for t in weights(tmp_path / "out").values()} == {torch.float32}
    assert 0 < distance(tuned, tmp_path / "out") < 3e-3


def test_lora_keeps_a_bfloat16_base_as_it_is_under_autocast(tmp_path, text):
    base = tiny.save_model(tmp_path / "base", dtype=torch.bfloat16)
    for name, bf16, frozen in (("under", True, "bfloat16"), ("without", False, "float32")):
        result = finetune(str(base), [text], tmp_path / name, **quick(lora=True, bf16=bf16))
        assert f"float32 weights, frozen ones in {frozen}" in result.precision
        assert {t.dtype for t in weights(tmp_path / name).values()} == {torch.float32}
    result = finetune(str(base), [text], tmp_path / "full", **quick(bf16=True))
    assert result.precision.startswith("float32 weights, bf16 autocast")
    assert json.loads((tmp_path / "full/config.json").read_text())["dtype"] == "float32"
