"""What is kept of the base is what the base says, whatever has become of the model since."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from taskarith.data.tokens import Sample
from taskarith.errors import CheckpointError, OutputError
from taskarith.training import reference
from taskarith.training.examples import Example
from taskarith.training.pairs import RowCollator
from taskarith.training.readings import read_rows
from taskarith.training.reference import StoredReference, adapter_off, check_reference_space, store_rows
from taskarith.training.resume import write_digests

ROWS = [(number, Example(Sample(str(number), tuple(range(9, 13 + number)), number % 3))) for number in range(5)]


@pytest.fixture(name="model")
def model_fixture() -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny.configuration("gpt2"))  # with dropout


@pytest.mark.parametrize("kind", ["sequences", "vocabulary", "states"])
@pytest.mark.parametrize("piece", [1 << 28, 1], ids=["one file", "a file a batch"])
def test_stored_numbers_and_those_without_the_adapter_are_the_base_s(tmp_path, model, kind, piece, monkeypatch):
    monkeypatch.setattr(reference, "_PIECE", piece)
    collate, layer = RowCollator(0), model.transformer.h[0]
    batches = [collate([[row] for row in ROWS[start : start + 2]]) for start in (0, 2, 4)]
    store_rows(model, batches[:2], kind, layer, tmp_path / "base" / "0")
    store_rows(model, batches[2:], kind, layer, tmp_path / "base" / "1")
    write_digests(tmp_path / "base")
    mixed = collate([[ROWS[4], ROWS[1]], [ROWS[2]]])
    with torch.no_grad():
        read = read_rows(model, mixed, layer)
        expected = read.compared(kind)
        adapted = get_peft_model(model, LoraConfig(target_modules=["c_fc", "c_proj"], fan_in_fan_out=True))
        for name, factor in adapted.named_parameters():
            if "lora_" in name:
                factor.normal_()
        assert not torch.allclose(read_rows(adapted, mixed, layer).compared(kind), expected, atol=1e-2)
    adapted.train()
    for compared in (StoredReference(tmp_path / "base"), adapter_off(kind, layer, lambda wrapped: wrapped)):
        found = compared(adapted, mixed)
        assert found.shape == expected.shape
        if kind == "sequences":
            assert torch.allclose(found, expected, atol=1e-5)
        else:
            assert torch.allclose(found[read.learned], expected[read.learned], atol=1e-5)
        assert adapted.training


def test_changed_or_missing_files_are_refused(tmp_path, model):
    folder = tmp_path / "base"
    store_rows(model, [RowCollator(0)([ROWS])], "sequences", None, folder / "0")
    with pytest.raises(CheckpointError):
        StoredReference(folder)  # without its digests it was not finished
    write_digests(folder)
    (folder / "0-0.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"the stored reference in .* was changed after it was written: 0-0"):
        StoredReference(folder)
    write_digests(folder)
    (folder / "1-0.safetensors").write_bytes(b"{}")
    write_digests(folder)
    with pytest.raises(CheckpointError, match=r"cannot read .*1-0\.safetensors"):
        StoredReference(folder)


def test_space_and_places_that_cannot_be_written_are_named(tmp_path, model, monkeypatch):
    (tmp_path / "base").touch()
    with pytest.raises(OutputError, match="cannot write the numbers of the base"):
        store_rows(model, [RowCollator(0)([ROWS])], "sequences", None, tmp_path / "base" / "0")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000_000))
    check_reference_space(tmp_path / "out", "log-probabilities", 1_000_000_000, 1_000_000_000)
    with pytest.raises(OutputError, match=r"log-probabilities would take 4 GB until .*no space left") as raised:
        check_reference_space(tmp_path / "out", "log-probabilities", 1_000_000_000, 1_000_000_001)
    assert "--lora" in raised.value.hint
