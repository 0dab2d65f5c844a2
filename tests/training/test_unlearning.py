"""Training with the objectives that make a model forget."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from finetuning import Notes, distance, quick, tokenizer_of, weights
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from taskarith.errors import CheckpointError, OutputError, UsageError
from taskarith.training.finetune import finetune
from taskarith.training.objectives import control_vector
from taskarith.training.pairs import partners

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(name="base", scope="module")
def base_fixture(tmp_path_factory) -> str:
    """A model of five layers, of which rmu steers the second by default."""
    folder, config = tmp_path_factory.mktemp("five") / "base", tiny.configuration("llama")
    config.num_hidden_layers = 5
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def _rows(base: str, path: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return for each block of a text the sum of its losses, their number, and how far rmu's states are to go."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    ids = tokenizer_of(base)(Path(path).read_text()).input_ids
    found = []
    for block in torch.tensor(ids).split(32):
        with torch.no_grad():
            outputs = model(input_ids=block[None], output_hidden_states=True)
        losses = torch.nn.functional.cross_entropy(outputs.logits[0, :-1], block[1:], reduction="sum")
        away = outputs.hidden_states[2][0, 1:] - control_vector(32, 6.5, 42)
        found.append((losses.item(), len(block) - 1, away.square().mean().item()))
    sums, counts, distances = zip(*found, strict=True)
    return torch.tensor(sums), torch.tensor(counts), torch.tensor(distances)


def test_the_first_step_has_the_values_of_the_formulas(tmp_path, text, other, base):
    """Nothing has moved yet: the model is the reference, with LoRA and without."""
    sums, counts, distances = _rows(base, text)
    retained = _rows(base, other)
    drawn = partners(len(sums), len(retained[0]), 42, 0)
    forget, retain = sums.sum() / counts.sum(), retained[0][drawn].sum() / retained[1][drawn].sum()
    softplus = torch.nn.functional.softplus
    expected = {
        "ascent": -forget,
        "graddiff": -forget + 0.5 * retain,
        "kl": -forget,
        "npo": 2 / 0.1 * softplus(torch.tensor(0.0)) + 0.5 * retain,
        "simnpo": (2 / 4.5 * softplus(-4.5 * sums / counts)).mean() + 0.5 * retain,
        "rmu": distances.mean(),
    }
    for objective, value in expected.items():
        lora = objective in {"graddiff", "npo", "rmu"}
        options: dict[str, Any] = {} if objective == "ascent" else {"retain": [other], "retain_weight": 0.5}
        options |= quick(max_steps=1, per_device_train_batch_size=64, lora=lora, objective=objective)
        result = finetune(base, [text], tmp_path / objective, **options)
        assert result.final_loss == pytest.approx(value.item(), rel=1e-5, abs=1e-6), objective
        assert result.first_loss == result.data_loss == pytest.approx(forget.item(), rel=1e-5)
        record = json.loads((tmp_path / objective / "taskarith.json").read_text())
        assert record["arguments"]["objective"] == objective
        assert record["arguments"].get("beta") == {"npo": 0.1, "simnpo": 4.5}.get(objective)
        assert record["arguments"].get("rmu_layer") == {"rmu": 1}.get(objective)


def test_learning_is_the_default_and_its_record_has_no_objective(tmp_path, text, tuned, phi):
    finetune(str(phi), [text], tmp_path / "out", objective="learn", **quick())
    assert distance(tuned, tmp_path / "out") == 0
    assert (
        not {"objective", "beta", "rmu_layer"} & json.loads((tuned / "taskarith.json").read_text())["arguments"].keys()
    )


@pytest.mark.parametrize(("objective", "lora"), [("kl", False), ("npo", True), ("rmu", False)])
def test_accumulating_1_by_4_with_checkpointing_equals_4_by_1(tmp_path, text, other, base, objective, lora):
    options = quick(retain=[other], retain_weight=0.5, max_grad_norm=0.0, objective=objective, lora=lora, max_steps=3)
    finetune(base, [text], tmp_path / "by4", **options)
    options |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "gradient_checkpointing": True}
    finetune(base, [text], tmp_path / "by1", **options)
    assert distance(tmp_path / "by1", tmp_path / "by4") < 2e-5  # of 3e-3 or so that three steps of Adam move
    if objective == "rmu":
        before, after = weights(Path(base)), weights(tmp_path / "by4")
        moved = {".".join(name.split(".")[:3]) for name in before if not torch.equal(before[name], after[name])}
        assert moved == {"model.layers.0", "model.layers.1"}


def test_a_retain_weight_of_0_is_ascent(tmp_path, text, other, phi):
    finetune(str(phi), [text], tmp_path / "ascent", objective="ascent", **quick())
    finetune(str(phi), [text], tmp_path / "graddiff", objective="graddiff", retain=[other], retain_weight=0, **quick())
    assert distance(tmp_path / "ascent", tmp_path / "graddiff") < 2e-6


@pytest.mark.parametrize(("objective", "lora"), [("kl", False), ("npo", True)])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, text, other, objective, lora):
    """In the middle of the second epoch; the base has dropout."""
    base = str(tiny.save_model(tmp_path / "base", "gpt2"))
    options = quick(max_steps=7, objective=objective, lora=lora, retain=[other])
    finetune(base, [text], tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        finetune(base, [text], tmp_path / "out", save_steps=5, listener=Notes(interrupt_after=6), **options)
    left = tmp_path / ".out.training"
    if not lora:
        shutil.copytree(left, tmp_path / "left")
        [kept] = (left / "base").glob("*.safetensors")
        kept.write_bytes(kept.read_bytes()[:-1] + b"?")
        with pytest.raises(CheckpointError, match=r"the stored reference in .* was changed after it was written: 0-0"):
            finetune(base, [text], tmp_path / "out", resume=True, **options)
        shutil.rmtree(left)
        (tmp_path / "left").rename(left)
    finetune(base, [text], tmp_path / "out", resume=True, **options)
    assert distance(tmp_path / "out", tmp_path / "whole") == 0
    assert not left.exists()


def test_two_processes_train_what_one_trains(tmp_path, text, other, phi, run_on_two):
    """The last batch of an epoch has one row, so that one process has none: what it repeats does not count."""
    options = quick(retain=[other], retain_weight=0.3, max_grad_norm=0.0)
    runs = [("kl", False), ("npo", True), ("rmu", False)]
    for objective, lora in runs:
        finetune(str(phi), [text], tmp_path / f"{objective}1", objective=objective, lora=lora, **options)
    options["per_device_train_batch_size"] = 2
    code = (
        f"from taskarith.training.finetune import finetune\n"
        f"for objective, lora in {runs}:\n"
        f"    finetune({str(phi)!r}, [{text!r}], objective + '2', objective=objective, lora=lora, **{options!r})"
    )
    run_on_two(code, tmp_path)
    for objective, _ in runs:
        assert distance(tmp_path / f"{objective}1", tmp_path / f"{objective}2") < 2e-5, objective  # of 2e-3


def test_what_a_model_or_a_disk_cannot_do_is_refused_before_anything_is_trained(
    tmp_path, text, other, base, monkeypatch
):
    options = quick(retain=[other])
    with pytest.raises(UsageError, match=r"--rmu-layer 5 is out of range: .* has 5 decoder layers") as raised:
        finetune(base, [text], tmp_path / "out", objective="rmu", rmu_layer=5, **options)
    assert raised.value.hint == "Name one from 0 to 4; without the option it is 1."
    bart = str(tiny.save_model(tmp_path / "bart", "bart"))
    with pytest.raises(UsageError, match="cannot reach the hidden states of BartForCausalLM"):
        finetune(bart, [text], tmp_path / "out", objective="rmu", **options)
    model = sum(tensor.nbytes for tensor in weights(Path(base)).values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=model + 1000))
    with pytest.raises(OutputError, match=r"the base's log-probabilities of [0-9]+ retain tokens would take [0-9.]+"):
        finetune(base, [text], tmp_path / "out", objective="kl", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["bart"]
