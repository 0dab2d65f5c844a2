"""Fine-tuning: what is written, the laws of its loss, interrupted runs, and refusals, for every tiny architecture."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import typer
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.cli import finetune as finetune_cli
from taskarith.cli.common import guarded
from taskarith.errors import CheckpointError, DataError, MismatchError, OutputError, TaskarithError, UsageError
from taskarith.training.examples import Collator, Example
from taskarith.training.finetune import finetune
from taskarith.training.precision import autocast_choice, choose_device
from taskarith.training.settings import SCHEDULERS
from taskarith.training.tokens import Sample

QUICK = {"block_size": 32, "max_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 4, "device": "cpu"}


class Notes:
    """Remembers what a user would see; interrupts like Ctrl-C after a number of steps."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[str, float, float]] = []
        self.interrupt_after = interrupt_after

    def note(self, message: str) -> None:
        self.notes.append(message)

    def progress(self, what: str, done: float, total: float) -> None:
        self.steps.append((what, done, total))
        if done == self.interrupt_after:
            raise KeyboardInterrupt


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


def distance(first: Path, second: Path) -> float:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    return max((one[name].double() - two[name].double()).abs().max().item() for name in one)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "forget.txt"
    path.write_text(tiny.text(16), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "retain.txt"
    path.write_text(tiny.text(8, seed=9), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, phi, text) -> Path:
    """The tiny Phi, trained for two steps."""
    return finetune(str(phi), [text], tmp_path_factory.mktemp("tuned") / "out", **QUICK).output_dir


# --- what is written -------------------------------------------------------------------------------------------------


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
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
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
    record = json.loads((tuned / "taskarith.json").read_text())
    assert record["kind"] == "full"
    assert record["base"] == {"name": str(phi), "revision": None, "fingerprint": fingerprint_model(phi)}
    [data] = record["data"]
    count = len(AutoTokenizer.from_pretrained(phi)(Path(text).read_text()).input_ids)
    assert (data["spec"], data["documents"], data["samples"], data["tokens"]) == (text, 1, -(-count // 32), count)
    assert record["arguments"]["learning_rate"] == 1e-3
    assert record["arguments"]["seed"] == 42
    assert "lora_rank" not in record["arguments"]
    assert record["versions"]["transformers"]
    assert record["precision"].startswith("float32 weights")
    assert 5 < record["final_loss"] < 7


def test_hub_names_of_gpt2_and_tied_copies_are_kept(tmp_path, text):
    """The hub's GPT-2 has no prefix, old buffers, and some files store a tied head a second time."""
    base = tiny.save_model(tmp_path / "base", "gpt2")
    stored = {name.removeprefix("transformer."): t for name, t in weights(base).items()}
    stored["h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8).tril()
    stored["lm_head.weight"] = stored["wte.weight"].clone()
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    finetune(str(base), [text], tmp_path / "out", **QUICK)
    after = weights(tmp_path / "out")
    assert after.keys() == stored.keys()
    assert torch.equal(after["h.0.attn.bias"], stored["h.0.attn.bias"])
    assert torch.equal(after["lm_head.weight"], after["wte.weight"])
    assert not torch.equal(after["wte.weight"], stored["wte.weight"])
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"]
    assert torch.equal(model.transformer.wte.weight, after["wte.weight"])


def test_saved_dtype_is_chosen_and_recorded(tmp_path, text, tuned, phi):
    finetune(str(phi), [text], tmp_path / "out", dtype="bfloat16", **QUICK)
    after = weights(tmp_path / "out")
    assert all(torch.equal(t, weights(tuned)[name].bfloat16()) for name, t in after.items())
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"


def test_lora_is_an_adapter_that_peft_loads(tmp_path, text, phi):
    result = finetune(str(phi), [text], tmp_path / "out", lora=True, lora_rank=4, **(QUICK | {"learning_rate": 1e-2}))
    assert result.kind == "lora"
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (str(phi), None)
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (4, 8, True)
    assert not (tmp_path / "out/config.json").exists()
    layers = {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}
    assert {name.split(".")[-3] for name in weights(tmp_path / "out")} == layers
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tiny.CHAT_TEMPLATE
    base = AutoModelForCausalLM.from_pretrained(phi)
    ids = AutoTokenizer.from_pretrained(phi)(Path(text).read_text(), return_tensors="pt").input_ids[:, :64]
    with torch.no_grad():
        before = base(ids, labels=ids).loss
        after = PeftModel.from_pretrained(base, tmp_path / "out")(ids, labels=ids).loss
    assert after < before - 0.05


def test_lora_targets_are_chosen(tmp_path, text):
    base = tiny.save_model(tmp_path / "base", "gpt2")  # whose layers store their weights transposed
    options = {"lora": True, "lora_target": ["c_attn", "mlp.c_proj"], "lora_alpha": 3.5, **QUICK}
    finetune(str(base), [text], tmp_path / "out", **options)
    names = {".".join(name.split(".")[4:7]) for name in weights(tmp_path / "out")}
    assert names == {f"{n}.{layer}" for n in (0, 1) for layer in ("attn.c_attn", "mlp.c_proj")}
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (config["fan_in_fan_out"], config["lora_alpha"]) == (True, 3.5)


# --- laws ------------------------------------------------------------------------------------------------------------


def test_same_seed_same_bits_other_seed_other_bits(tmp_path, text, tuned, phi):
    finetune(str(phi), [text], tmp_path / "again", **QUICK)
    assert distance(tuned, tmp_path / "again") == 0
    finetune(str(phi), [text], tmp_path / "other", seed=43, **QUICK)
    assert distance(tuned, tmp_path / "other") > 0


@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize(
    "kind", ["phi", "gpt2"]
)  # their losses count a step's tokens by different ways of transformers
def test_accumulating_1_by_8_equals_8_by_1(tmp_path, text, other, kind, weight):
    base = tiny.save_model(tmp_path / "base", kind)
    options = QUICK | {"retain": [other], "retain_weight": weight, "max_steps": 2, "max_grad_norm": 0.0}
    for batch, accumulated in ((8, 1), (1, 8)):
        options |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        finetune(str(base), [text], tmp_path / f"by{batch}", **options)
    assert distance(base, tmp_path / "by8") > 1e-3
    assert distance(tmp_path / "by1", tmp_path / "by8") < 2e-6


def test_gradient_checkpointing_changes_nothing(tmp_path, text, tuned, phi):
    finetune(str(phi), [text], tmp_path / "out", gradient_checkpointing=True, **QUICK)
    assert distance(tuned, tmp_path / "out") == 0


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


def test_two_processes_train_what_one_trains(tmp_path, text, other, phi):
    options = QUICK | {"retain": [other], "retain_weight": 0.3, "max_grad_norm": 0.0}
    finetune(str(phi), [text], tmp_path / "one", **options)
    options["per_device_train_batch_size"] = 2
    code = f"from taskarith.training.finetune import finetune; finetune({str(phi)!r}, [{text!r}], 'two', **{options!r})"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    shared |= {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=200) for process in started] == [0, 0]
    assert distance(tmp_path / "one", tmp_path / "two") < 2e-6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_only_completions_have_labels():
    batch = Collator(pad_id=7, weighted=True)(
        [Example(Sample("a", (1, 2, 3, 4), 2)), Example(Sample("b", (5, 6), 0), weight=0.5)]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 3, 4], [-100, 6, -100, -100]]
    assert batch["weights"].tolist() == [1.0, 0.5]


# --- precision and devices -------------------------------------------------------------------------------------------


def test_bf16_autocast_keeps_float32_weights(tmp_path, text, tuned, phi):
    notes = Notes()
    result = finetune(str(phi), [text], tmp_path / "out", bf16=True, listener=notes, **QUICK)
    assert result.precision == "float32 weights, bf16 autocast (as asked for)"
    assert notes.notes == [f"training full on cpu: {result.precision}"]
    assert {t.dtype for t in weights(tmp_path / "out").values()} == {torch.float32}
    assert 0 < distance(tuned, tmp_path / "out") < 3e-3


def test_precision_follows_the_device(monkeypatch):
    cpu = torch.device("cpu")
    for has, good, why in (
        ({"amx_bf16": True}, True, "AMX"),
        ({"avx512_bf16": True}, True, "AVX512-BF16"),
        ({"avx2": True}, False, "neither AMX nor AVX512-BF16"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        choice, reason = autocast_choice(cpu, None)
        assert choice is good
        assert why in reason
    assert autocast_choice(torch.device("mps"), None)[0] is False
    assert autocast_choice(cpu, True) == (True, "as asked for")
    for name in ("gpu", "cuda:x", "cpu:1", "mps:0", ""):
        with pytest.raises(UsageError, match="unknown device"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="has 2 CUDA devices"):
        choose_device("cuda:2")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert choose_device("auto") == cpu


def test_every_schedule_runs(tmp_path, text, phi):
    ends = set()
    for name in SCHEDULERS:
        out = tmp_path / name
        finetune(str(phi), [text], out, lr_scheduler_type=name, warmup_steps=1, **(QUICK | {"max_steps": 3}))
        ends.add(fingerprint_model(out))
    assert len(ends) > 3  # some coincide in three steps, most do not


# --- interrupted runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, text, phi, lora):
    options = QUICK | {"max_steps": 4, "lora": lora}
    finetune(str(phi), [text], tmp_path / "whole", **options)
    out, left = tmp_path / "out", tmp_path / ".out.training"
    with pytest.raises(KeyboardInterrupt):
        finetune(str(phi), [text], out, save_steps=2, listener=Notes(interrupt_after=3), **options)
    assert (left / "checkpoint-2").is_dir()
    assert not out.exists()
    (left / "checkpoint-3").mkdir()  # a checkpoint that a kill cut short
    with pytest.raises(OutputError, match="an interrupted run left .*checkpoint-2"):
        finetune(str(phi), [text], out, **options)
    with pytest.raises(MismatchError, match=r"of another run: learning_rate \(0.001 then, 0.002 now\)"):
        finetune(str(phi), [text], out, resume=True, **(options | {"learning_rate": 2e-3}))
    notes = Notes()
    result = finetune(str(phi), [text], out, resume=True, listener=notes, **options)
    assert [done for _, done, _ in notes.steps] == [3, 4]
    assert result.steps == 4
    assert distance(out, tmp_path / "whole") == 0
    assert not left.exists()


def test_an_interrupted_run_without_checkpoints_leaves_nothing(tmp_path, text, phi):
    with pytest.raises(KeyboardInterrupt):
        finetune(str(phi), [text], tmp_path / "out", listener=Notes(interrupt_after=1), **QUICK)
    assert list(tmp_path.iterdir()) == []


def test_overwrite_drops_old_checkpoints_and_outputs(tmp_path, text, tuned, phi):
    with pytest.raises(KeyboardInterrupt):
        finetune(str(phi), [text], tmp_path / "out", save_steps=1, listener=Notes(interrupt_after=2), **QUICK)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").touch()
    finetune(str(phi), [text], tmp_path / "out", overwrite=True, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "old.txt").exists()
    assert distance(tuned, tmp_path / "out") == 0


def test_resume_without_a_checkpoint_says_so(tmp_path, text, tuned, phi):
    notes = Notes()
    finetune(str(phi), [text], tmp_path / "out", resume=True, listener=notes, **QUICK)
    assert notes.notes[0].startswith("there is no checkpoint for")
    assert distance(tuned, tmp_path / "out") == 0


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "--learning-rate is 0.0"),
        ({"learning_rate": -1e-3}, "--learning-rate is -0.001"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"num_train_epochs": 0}, "--num-train-epochs is 0"),
        ({"max_steps": 0}, "--max-steps is 0"),
        ({"block_size": 1}, "--block-size is 1"),
        ({"per_device_train_batch_size": 0}, "--per-device-train-batch-size is 0"),
        ({"gradient_accumulation_steps": 0}, "--gradient-accumulation-steps is 0"),
        ({"warmup_steps": 1.5}, "--warmup-steps is 1.5"),
        ({"lora": True, "lora_rank": 0}, "--lora-rank is 0"),
        ({"lora": True, "lora_alpha": -1.0}, "--lora-alpha is -1.0"),
        ({"lora_target": ["q_proj"]}, "not --lora"),
        ({"lora_rank": 8}, "not --lora"),
        ({"retain_weight": 0.5}, "there is no retain set"),
        ({"retain": ["x"], "retain_weight": -0.5}, "--retain-weight is -0.5"),
        ({"lr_scheduler_type": "steep"}, "unknown --lr-scheduler-type 'steep'"),
        ({"dtype": "int8"}, "unknown --dtype 'int8'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"save_steps": 0}, "--save-steps is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"report_to": ["nowhere"]}, "--report-to nowhere is not available"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_loaded(tmp_path, options, message):
    with pytest.raises(UsageError, match=message) as raised:
        finetune("no/such/model", ["no-such.txt"], tmp_path / "out", **options)
    assert raised.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


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
    with pytest.raises(UsageError, match="--block-size 257 is more than the 256 positions"):
        finetune(str(phi), [text], tmp_path / "out", block_size=257)
    with pytest.raises(UsageError, match="--lora-target q_proj, gate: the model has no such") as raised:
        finetune(str(phi), [text], tmp_path / "out", lora=True, lora_target=["q_proj", "gate"])
    assert raised.value.hint == "It has dense, fc1, fc2, k_proj, lm_head, q_proj, v_proj."
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
    with pytest.raises(UsageError, match="brings its own code"):
        finetune(str(broken), [text], tmp_path / "out")
    (broken / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    with pytest.raises(CheckpointError, match="transformers cannot load"):
        finetune(str(broken), [text], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_tied_head_is_no_lora_target(tmp_path, text):
    base = tiny.save_model(tmp_path / "base", "llama")
    with pytest.raises(UsageError, match="--lora-target lm_head: the model has no such"):
        finetune(str(base), [text], tmp_path / "out", lora=True, lora_target=["lm_head"], **QUICK)


@pytest.mark.parametrize("options", [{}, {"retain_weight": 0.5}], ids=["plain", "retain"])
def test_a_diverged_training_is_not_published(tmp_path, text, other, phi, options):
    options = QUICK | {"learning_rate": 1e30, "max_steps": 3} | options
    retain = [other] if "retain_weight" in options else []
    with pytest.raises(TaskarithError, match="training diverged: the loss is nan at step 2"):
        finetune(str(phi), [text], tmp_path / "out", retain=retain, **options)
    with pytest.raises(TaskarithError, match="is not finite in torch.float32 after training"):
        finetune(
            str(phi), [text], tmp_path / "out", retain=retain, **(options | {"max_steps": 1, "learning_rate": 1e300})
        )
    assert list(tmp_path.iterdir()) == []


# --- as a user types it ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer(pretty_exceptions_enable=False)
    made.command("finetune")(guarded(finetune_cli.command))
    return made


def test_command_trains_and_prints_json(tmp_path, text, tuned, phi, app):
    (tmp_path / "run.yaml").write_text("max-steps: 2\nlearning-rate: 9.0\nper-device-train-batch-size: 4\n")
    words = ["--data", text, "-o", str(tmp_path / "out"), "--block-size", "32", "--learning-rate", "1e-3", "--json"]
    done = CliRunner().invoke(app, [str(phi), *words, "--device", "cpu", "--config", str(tmp_path / "run.yaml")])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["kind"], result["steps"], result["output_dir"]) == ("full", 2, str(tmp_path / "out"))
    assert "training full on cpu: float32 weights" in done.stderr
    assert distance(tuned, tmp_path / "out") == 0  # the flag won over the file, the file over the default


def test_command_says_what_is_wrong_in_two_lines(tmp_path, text, phi, app):
    words = [str(phi), "--data", text, "-o", str(tmp_path / "out")]
    for more, code, first in (
        (["--lora-rank", "4"], 2, "error: a LoRA option is set, but not --lora"),
        (["--data", str(tmp_path / "absent.txt")], 1, "error: there is no file"),
        (["--block-size", "4096"], 2, "error: --block-size 4096 is more than the 256 positions"),
    ):
        done = CliRunner().invoke(app, [*words, *more])
        lines = done.stderr.strip().splitlines()
        assert done.exit_code == code
        assert len(lines) == 2
        assert lines[0].startswith(first)
        assert lines[1].startswith("hint:  ")
        assert done.stdout == ""
