"""Low-rank extraction: the best energy there is, and a folder that PEFT loads with nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import oracle
import pytest
import tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.errors import CheckpointError, MismatchError, TaskarithError, UsageError
from taskarith.evaluation.evaluate import evaluate
from taskarith.vectors import eigen
from taskarith.vectors.low_rank import extract_low_rank
from taskarith.vectors.svd import best_fit


def low_rank_tune(base: Path, folder: Path, rank: int = 2, leave: str = "nothing") -> Path:
    """Write a fine-tune whose layers moved by matrices of low rank, and everything else by noise."""
    tiny.save_model(folder, nudge_of=base, scale=0)
    tensors = oracle.load(base)
    torch.manual_seed(7)
    for name, tensor in tensors.items():
        if leave in name:
            continue
        if tensor.ndim == 2 and min(tensor.shape) > 4 * rank:
            delta = torch.randn(tensor.shape[0], rank) @ torch.randn(rank, tensor.shape[1]) * 0.02
        else:
            delta = torch.randn_like(tensor) * 0.05
        tensors[name] = tensor + delta
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("kind", ["phi", "llama", "qwen2", "gpt2"])
def test_peft_and_apply_give_back_the_fine_tune(tmp_path, kind):
    base = tiny.save_model(tmp_path / "base", kind)
    tuned = low_rank_tune(base, tmp_path / "tuned")
    result = extract_low_rank(str(base), str(tuned), tmp_path / "adapter", rank=4)
    assert set(result.ranks.values()) == {2}  # the other two are zero but for rounding
    assert min(result.energies.values()) > 1 - 1e-9
    assert result.rest == ()
    apply(add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out")
    expected = AutoModelForCausalLM.from_pretrained(tuned).state_dict()
    applied = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    ids = torch.arange(24).reshape(2, 12)
    torch.testing.assert_close(
        adapted(ids).logits, AutoModelForCausalLM.from_pretrained(tuned)(ids).logits, rtol=1e-4, atol=1e-4
    )
    merged = adapted.merge_and_unload().state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(applied[name], tensor, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(merged[name], tensor, rtol=1e-6, atol=1e-6)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 2)


def test_experts_get_factors_as_parameters(tmp_path):
    base = tiny.save_model(tmp_path / "base", "moe")
    tuned = low_rank_tune(base, tmp_path / "tuned")
    result = extract_low_rank(str(base), str(tuned), tmp_path / "adapter", rank=4, dtype="float64")
    assert result.rest == ()
    assert {name for name in result.ranks if "experts" in name} == {
        f"model.layers.{layer}.mlp.experts.{name}" for layer in (0, 1) for name in ("gate_up_proj", "down_proj")
    }
    apply(add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out")
    expected, found = oracle.load(tuned), oracle.load(tmp_path / "out")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    merged, state = model.merge_and_unload().state_dict(), AutoModelForCausalLM.from_pretrained(tuned).state_dict()
    for name, tensor in state.items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-6, atol=1e-6)


def test_what_peft_cannot_hold_stays_exact_in_a_file_beside(tmp_path):
    base, tuned = (tiny.save_model(tmp_path / name, "mamba", seed=seed) for name, seed in (("base", 0), ("tuned", 1)))
    result = extract_low_rank(str(base), str(tuned), tmp_path / "adapter", rank=2)
    text = tmp_path / "retain.txt"
    text.write_text(tiny.text(20))
    lost = {f"backbone.layers.{layer}.mixer.{name}" for layer in (0, 1) for name in ("A_log", "D", "out_proj.weight")}
    assert {*result.rest} == lost  # bare parameters, and a layer that PEFT refuses
    apply(add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out")
    expected, found = oracle.load(tuned), oracle.load(tmp_path / "out")
    for name in lost:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-7)
    with pytest.raises(CheckpointError, match=r"deltas that PEFT has no place for \(rest\.safetensors\)"):
        evaluate([str(tmp_path / "adapter")], {"retain": str(text)})


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (50, 50), (700, 3)])
@pytest.mark.parametrize("spectrum", ["noise", "decay", "exact"])
def test_the_energy_is_the_best_there_is(monkeypatch, shape, spectrum):
    monkeypatch.setattr("taskarith.vectors.svd._BLOCK", 256)
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=shape) * 1e-3
    if spectrum != "noise":
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        values = np.exp(-np.arange(len(values))) if spectrum == "decay" else np.arange(len(values)) < 2
        matrix = (left * values) @ right
    singular = np.linalg.svd(matrix, compute_uv=False)
    for rank in (1, 2, 7):
        fit = best_fit(lambda start, stop: torch.from_numpy(matrix[start:stop]), shape, rank, None)
        assert fit.rank <= rank
        best = np.sum(singular[:rank] ** 2)
        assert fit.total == pytest.approx(np.sum(singular**2), rel=1e-12)
        assert fit.kept == pytest.approx(best, rel=1e-12)
        lost = np.linalg.norm(matrix - (fit.left @ fit.right).numpy()) ** 2
        assert lost == pytest.approx(np.sum(singular[rank:] ** 2), rel=1e-9, abs=fit.total * 1e-14)
        assert fit.left.norm(dim=0).numpy() == pytest.approx(fit.right.norm(dim=1).numpy())
    for share in (0.3, 0.95, 0.999):
        fit = best_fit(lambda start, stop: torch.from_numpy(matrix[start:stop]), shape, None, share)
        kept = np.cumsum(singular**2) / np.sum(singular**2)
        assert fit.rank == int(np.sum(kept < share)) + 1
    if spectrum == "exact":
        assert best_fit(lambda start, stop: torch.from_numpy(matrix[start:stop]), shape, None, 1.0).rank == 2


@pytest.mark.parametrize("spectrum", ["flat", "decay", "steep", "equal", "low rank"])
@pytest.mark.parametrize("rank", [1, 16])
def test_many_columns_lose_nothing_either(spectrum, rank):
    size = 320
    numbers = torch.arange(1, size + 1, dtype=torch.float64)
    matrix = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1e-12
    if spectrum != "flat":
        left, _, right = torch.linalg.svd(matrix)
        values = {
            "decay": 1 / numbers,
            "steep": torch.exp(-numbers),
            "equal": 1 + (numbers < 9),
            "low rank": numbers < 9,
        }
        matrix = left * values[spectrum] @ right
    best = torch.linalg.svdvals(matrix)[:rank].square().sum()
    sides = (lambda start, stop: matrix[start:stop], lambda start, stop: matrix.T[start:stop])
    fits = [best_fit(rows, (size, size), rank, None) for rows in sides]
    for fit in fits:
        assert fit.rank == (min(rank, 8) if spectrum == "low rank" else rank)
        assert fit.kept / best == pytest.approx(1, abs={"flat": 1e-8, "decay": 1e-10}.get(spectrum, 1e-12))
    lost = (matrix - fits[0].left @ fits[0].right).square().sum()
    assert lost == pytest.approx(fits[0].total - fits[0].kept, abs=fits[0].total * 1e-10)


@pytest.mark.parametrize("shape", [(600, 300), (300, 600), (90, 200)])
@pytest.mark.parametrize("scale", [1e-150, 1e-3, 1e38])
def test_what_is_small_beside_the_largest_singular_value_is_not_lost_to_float32(shape, scale):
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, 16, dtype=torch.float64, generator=generator) for size in shape)
    values = torch.logspace(0, -6, 16, dtype=torch.float64)
    matrix = scale * (torch.linalg.qr(left).Q * values) @ torch.linalg.qr(right).Q.T
    for rank in (16, 20):
        fit = best_fit(lambda start, stop: matrix[start:stop], shape, rank, None)
        assert fit.rank == 16
        assert (matrix - fit.left @ fit.right).norm() < 1e-13 * matrix.norm()
        sizes = fit.left.norm(dim=0) * fit.right.norm(dim=1)
        assert (sizes / scale).tolist() == pytest.approx(values.tolist(), rel=1e-6)


def test_a_subspace_that_misses_the_largest_eigenvector_is_not_believed(monkeypatch):
    values = torch.cat([torch.tensor([100.0]), torch.linspace(50, 1, 319)]).double()
    gram = values.diag()
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: torch.eye(*shape).roll(1, 0))  # nothing of the first
    monkeypatch.setattr(eigen, "_ROUNDS", 200)
    monkeypatch.setattr(eigen, "_PATIENCE", 200)
    proofs = []
    is_all = eigen._Subspace.is_all
    monkeypatch.setattr(eigen._Subspace, "is_all", lambda *one: proofs.append(is_all(*one)) or proofs[-1])
    vectors = eigen.leading(gram, 2)
    assert (vectors[0, 0].abs(), vectors[1, 1].abs()) == (pytest.approx(1), pytest.approx(1))
    assert proofs
    assert not any(proofs)


def test_ranks_follow_the_energy_and_alone_what_moved_is_written(tmp_path):
    base = tiny.save_model(tmp_path / "base", "qwen2")
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base)
    tensors = load_file(tuned / "model.safetensors") | {
        name: tensor for name, tensor in oracle.load(base).items() if "layers.1" in name or "norm" in name
    }
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    result = extract_low_rank(str(base), str(tuned), tmp_path / "adapter", energy=0.4)
    assert len(set(result.ranks.values())) > 1
    assert min(result.energies.values()) >= 0.4
    assert not [name for name in (*result.ranks, *result.whole) if "layers.1" in name or "norm" in name]
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["rank_pattern"] == config["alpha_pattern"] != {}
    assert config["r"] == config["lora_alpha"] == max(result.ranks.values())
    assert config["bias"] == "all"
    assert "model.layers.0.self_attn.q_proj" in config["target_modules"]
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").merge_and_unload()
    apply(add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out", dtype="float64")
    before, after, found = oracle.load(base), oracle.load(tuned), oracle.load(tmp_path / "out")
    lost = moved = 0.0
    for name, tensor in found.items():
        delta = after[name].double() - before[name].double()
        lost += float(((tensor - before[name].double()) - delta).square().sum())
        moved += float(delta.square().sum())
    assert result.energy == pytest.approx(1 - lost / moved, rel=1e-6)
    again = extract_low_rank(str(base), str(tuned), tmp_path / "again", energy=0.4)
    assert again.ranks == result.ranks
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes()


def test_the_command(tmp_path):
    base = tiny.save_model(tmp_path / "base", "moe")
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base)
    arguments = ["extract", str(base), str(tuned), "-o", str(tmp_path / "adapter"), "--rank", "3"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert done.stdout.strip() == str(tmp_path / "adapter")
    assert "matrices of rank 3 to 3" in done.stderr
    assert "kept whole in the adapter: model.layers.0.input_layernorm.weight" in done.stderr
    shown = json.loads(CliRunner().invoke(app, [*arguments, "--overwrite", "--json"]).stdout)
    assert set(shown["ranks"].values()) == {3}
    record = json.loads((tmp_path / "adapter/taskarith.json").read_text())
    assert record["base"]["fingerprint"] == shown["base"]["fingerprint"]
    assert record["tensors"]["model.layers.0.self_attn.q_proj.weight"]["rank"] == 3
    assert record["rest"] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 4, "output": "v.safetensors"}, "is a folder, and"),
        ({"rank": 0}, "at least 1"),
        ({"energy": 1.5}, "at most 1"),
        ({"rank": 1, "energy": 0.5}, "one of --rank and --energy"),
        ({"rank": 1, "dtype": "int8"}, "unknown dtype"),
    ],
)
def test_wrong_calls(tmp_path, options, words):
    output = tmp_path / options.pop("output", "adapter")
    with pytest.raises(UsageError, match=words) as caught:
        extract_low_rank("base", "tuned", output, **options)
    assert caught.value.hint


@pytest.mark.parametrize("form", [["--exact"], ["--bits", "4"], ["--top-k", "0.5"], ["--rows", "0.5"]])
def test_two_forms_at_once(tmp_path, phi, phi_tuned, form):
    call = ["extract", str(phi), str(phi_tuned), "-o", str(tmp_path / "v"), "--rank", "2", *form]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 2
    assert "another form" in done.stderr
    assert not (tmp_path / "v").exists()


def test_nothing_to_factor(tmp_path):
    base = tiny.save_model(tmp_path / "base")
    with pytest.raises(MismatchError, match="no matrix has a delta"):
        extract_low_rank(str(base), str(base), tmp_path / "adapter", rank=4)
    tuned = low_rank_tune(base, tmp_path / "tuned")
    tensors = oracle.load(tuned)
    tensors["model.layers.0.mlp.fc1.weight"][3, 4] = torch.nan
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TaskarithError, match=r"1 deltas are not finite: model\.layers\.0\.mlp\.fc1"):
        extract_low_rank(str(base), str(tuned), tmp_path / "adapter", rank=4)
    assert not (tmp_path / "adapter").exists()


def test_files_without_the_prefix_of_the_model_give_names_that_peft_knows(tmp_path):
    base = tiny.save_model(tmp_path / "base", "gpt2")
    tuned = low_rank_tune(base, tmp_path / "tuned")
    for folder in (base, tuned):  # as GPT-2 lies on the hub
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in oracle.load(folder).items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    extract_low_rank(str(base), str(tuned), tmp_path / "adapter", energy=0.999)
    names = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight" in names
    assert "base_model.model.transformer.h.0.attn.c_attn.base_layer.bias" in names
    expected = AutoModelForCausalLM.from_pretrained(tuned).state_dict()
    apply(add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out")
    applied = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    merged = adapted.merge_and_unload().state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(applied[name], tensor, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(merged[name], tensor, rtol=1e-5, atol=1e-5)
