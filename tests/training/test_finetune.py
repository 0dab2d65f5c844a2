"""Fine-tuning: what is written for every tiny architecture, what is refused, and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import typer
from finetuning import QUICK, Notes, distance, quick, tokenizer_of, weights
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
from taskarith.checkpoints.provenance import read_provenance
from taskarith.cli import finetune as finetune_cli
from taskarith.cli.guard import guarded
from taskarith.errors import CheckpointError, DataError, MismatchError, OutputError, TaskarithError, UsageError
from taskarith.evaluation.evaluate import evaluate
from taskarith.inspection.verify import verify
from taskarith.training import saving
from taskarith.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_full_finetune_is_a_model_with_the_names_of_its_base(tmp_path, text, kind):
    base = tiny.save_model(tmp_path / "base", kind, max_shard_size="40KB" if kind == "qwen2" else "5GB")
    (base / "LICENSE").write_text("free", encoding="utf-8")
    notes = Notes()
    result = finetune(str(base), [text], tmp_path / "out", listener=notes, **QUICK)
    before, after = weights(base), weights(tmp_path / "out")
    assert {name: (t.shape, t.dtype) for name, t in after.items()} == {n: (t.shape, t.dtype) for n, t in before.items()}
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert all(".experts." in name for name in still), still  # an expert that no token chose has no gradient
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    model, loading = loaded
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    for path in base.iterdir():
        if path.suffix == ".json" and path.name.startswith(("config", "model")):
            continue
        if path.suffix != ".safetensors":
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name
    assert json.loads((tmp_path / "out/config.json").read_text()) == json.loads((base / "config.json").read_text())
    assert model.config.use_cache
    assert [step[1:] for step in notes.steps] == [(1, 2), (2, 2)]
    assert notes.steps[1][0].startswith(f"training | loss {result.final_loss:.0f}"[:15])
    assert (result.kind, result.steps, result.output_dir) == ("full", 2, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


def test_record_names_base_data_and_arguments(tuned, phi, text):
    record = read_provenance(tuned)
    assert verify(tuned).is_sound
    assert record["kind"] == "full"
    assert record["base"] == {"name": str(phi), "revision": None, "fingerprint": fingerprint_model(phi)}
    [data] = record["data"]
    count = len(tokenizer_of(phi)(Path(text).read_text()).input_ids)
    assert (tuned / data["spec"]).resolve() == Path(text)
    assert (data["documents"], data["samples"], data["tokens"]) == (1, -(-count // 32), count)
    assert record["arguments"]["learning_rate"] == 1e-3
    assert record["arguments"]["seed"] == 42
    assert "lora_rank" not in record["arguments"]
    assert record["versions"]["transformers"]
    assert record["precision"].startswith("float32 weights")
    assert 5 < record["final_loss"] < 7


@pytest.mark.parametrize("shard_size", ["5GB", "40KB"])
def test_hub_names_of_gpt2_and_tied_copies_are_kept(tmp_path, text, monkeypatch, shard_size):
    """The hub's GPT-2 has no prefix, old buffers, and some files store a tied head a second time."""
    base = tiny.save_model(tmp_path / "base", "gpt2")
    stored = {name.removeprefix("transformer."): t for name, t in weights(base).items()}
    stored["h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8).tril()
    stored["lm_head.weight"] = stored["wte.weight"].clone()
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(saving, "_SHARD_SIZE", shard_size)
    notes = Notes()
    finetune(str(base), [text], tmp_path / "out", listener=notes, **QUICK)
    opened = open_checkpoint(tmp_path / "out")
    assert (len(opened.shards) > 1) is (shard_size == "40KB")
    assert opened.tensors.keys() == stored.keys()
    assert notes.notes[:1] == ["1 tensors are not part of the trained model and are copied: h.0.attn.bias"]
    after = weights(tmp_path / "out")
    assert torch.equal(after["h.0.attn.bias"], stored["h.0.attn.bias"])
    assert torch.equal(after["lm_head.weight"], after["wte.weight"])
    assert not torch.equal(after["wte.weight"], stored["wte.weight"])
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    model, loading = loaded
    assert not loading["missing_keys"]
    assert torch.equal(model.transformer.wte.weight, after["wte.weight"])


def test_saved_dtype_is_chosen_and_recorded(tmp_path, text, tuned, phi):
    finetune(str(phi), [text], tmp_path / "out", dtype="bfloat16", **QUICK)
    after = weights(tmp_path / "out")
    assert all(torch.equal(t, weights(tuned)[name].bfloat16()) for name, t in after.items())
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"


def test_files_are_refused_in_the_cheapest_order(tmp_path, text):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OutputError, match="already exists"):
        finetune("no/such/model", ["no-such.txt"], tmp_path / "full")
    with pytest.raises(DataError, match="there is no file"):
        finetune("no/such/model", ["no-such.txt"], tmp_path / "out")
    with pytest.raises(CheckpointError, match="there is no model folder"):
        finetune("no/such/model", [text], tmp_path / "out")
    with pytest.raises(UsageError, match="no data"):
        finetune("no/such/model", [], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_models_that_cannot_be_trained_are_refused(tmp_path, text, phi):
    with pytest.raises(UsageError, match="--block-size 257 exceeds the 256 positions"):
        finetune(str(phi), [text], tmp_path / "out", block_size=257)
    with pytest.raises(UsageError, match="--lora-target gate: the model does not have") as raised:
        finetune(str(phi), [text], tmp_path / "out", lora=True, lora_target=["q_proj", "gate"])
    assert raised.value.hint == "The model has dense, fc1, fc2, k_proj, lm_head, q_proj, v_proj."
    broken = shutil.copytree(phi, tmp_path / "broken")
    kept = {name: t for name, t in weights(phi).items() if "fc1" not in name}
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 4 weights of PhiForCausalLM: model\.layers\.0\.mlp\.fc1\.bias"):
        finetune(str(broken), [text], tmp_path / "out")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"vocab_size": 64}))
    with pytest.raises(MismatchError, match="but the model has only 64 tokens"):
        finetune(str(broken), [text], tmp_path / "out")
    own_code = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (broken / "config.json").write_text(json.dumps(own_code))
    (broken / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UsageError, match="comes with its own code"):
        finetune(str(broken), [text], tmp_path / "out")
    (broken / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    with pytest.raises(CheckpointError, match="transformers cannot load"):
        finetune(str(broken), [text], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize("weight", [1.0, 0.5], ids=["plain", "retain"])
def test_a_diverged_training_is_not_published(tmp_path, text, other, phi, weight):
    options = {"retain": [other], "retain_weight": weight}
    with pytest.raises(TaskarithError, match="training diverged: the loss is nan at step 2"):
        finetune(str(phi), [text], tmp_path / "out", **quick(learning_rate=1e30, max_steps=3, **options))
    with pytest.raises(TaskarithError, match=r"is not finite in torch\.float32 after training"):
        finetune(
            str(phi), [text], tmp_path / "out", **quick(learning_rate=1e30, weight_decay=1e10, max_steps=1, **options)
        )
    assert [path.name for path in tmp_path.iterdir()] == [".out.training"]  # a wider dtype might have held them


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer(pretty_exceptions_enable=False)
    made.command("finetune")(guarded(finetune_cli.command))
    return made


def test_command_trains_and_prints_json(tmp_path, text, tuned, phi, app):
    (tmp_path / "run.yaml").write_text("max-steps: 2\nlearning-rate: 9.0\nper-device-train-batch-size: 4\n")
    words = [
        "--data",
        text,
        "-o",
        str(tmp_path / "out"),
        "--block-size",
        "32",
        "--learning-rate",
        "1e-3",
        "--json",
        "--no-bf16",
    ]
    done = CliRunner().invoke(app, [str(phi), *words, "--device", "cpu", "--config", str(tmp_path / "run.yaml")])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["kind"], result["steps"], result["output_dir"]) == ("full", 2, str(tmp_path / "out"))
    assert "training full on cpu: float32 weights" in done.stderr
    assert distance(tuned, tmp_path / "out") == 0  # the flag won over the file, the file over the default


@pytest.mark.parametrize("verb", [finetune, evaluate])
def test_a_verb_refuses_a_keyword_that_it_does_not_have(verb):
    with pytest.raises(TypeError, match="unexpected keyword argument 'blok_size'"):
        verb("model", [], "out", blok_size=2) if verb is finetune else verb(["model"], {}, blok_size=2)
