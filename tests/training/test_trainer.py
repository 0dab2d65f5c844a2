"""Fine-tuning: the laws of its loss and its seed, precision by device, and runs that are interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from finetuning import (  # noqa: F401  (by their names)
    QUICK,
    Notes,
    distance,
    one_thread_fixture,
    other_fixture,
    quick,
    text_fixture,
    tuned_fixture,
    weights,
)
from safetensors.torch import load_file, save_file
from transformers import get_scheduler

from taskarith.checkpoints.provenance import write_provenance
from taskarith.data.tokens import Sample
from taskarith.errors import CheckpointError, MismatchError, OutputError, UsageError
from taskarith.models.device import autocast_choice, choose_device
from taskarith.training.examples import Collator, Example
from taskarith.training.finetune import finetune
from taskarith.training.resume import finish_checkpoint
from taskarith.training.settings import SCHEDULERS

pytestmark = pytest.mark.usefixtures("one_thread")


# --- laws ------------------------------------------------------------------------------------------------------------


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


def test_two_processes_train_what_one_trains(tmp_path, text, other, phi):
    options = quick(retain=[other], retain_weight=0.3, max_grad_norm=0.0)
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


def test_every_schedule_needs_no_more_arguments():
    for name in SCHEDULERS:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=3)
        assert optimizer.param_groups[0]["lr"] in {0.0, 1.0}, name


# --- interrupted runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen3_moe", "gemma3"])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, text, kind, lora):
    """A head is tied, dropout draws random numbers, weights have other names in files, a part of them is frozen."""
    base = str(tiny.save_model(tmp_path / "base", kind))
    options = quick(max_steps=4, lora=lora)
    finetune(base, [text], tmp_path / "whole", **options)
    out, left = tmp_path / "out", tmp_path / ".out.training"
    with pytest.raises(KeyboardInterrupt):
        finetune(base, [text], out, save_steps=2, listener=Notes(interrupt_after=3), **options)
    assert (left / "checkpoint-2").is_dir()
    assert not out.exists()
    (left / "checkpoint-3").mkdir()  # a checkpoint that a kill cut short
    (left / "checkpoint-3/trainer_state.json").write_text('{"epoch": 0.')
    with pytest.raises(OutputError, match=r"an interrupted run left .*checkpoint-2"):
        finetune(base, [text], out, **options)
    with pytest.raises(MismatchError, match=r"of another run: learning_rate \(0.001 then, 0.002 now\)"):
        finetune(base, [text], out, resume=True, **quick(max_steps=4, lora=lora, learning_rate=2e-3))
    notes = Notes()
    result = finetune(base, [text], out, resume=True, listener=notes, **options)
    assert [done for _, done, _ in notes.steps] == [3, 4]
    assert result.steps == 4
    assert distance(out, tmp_path / "whole") == 0
    assert not left.exists()


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, text):
    base = str(tiny.save_model(tmp_path / "base", "gpt_neox"))
    options = quick(max_steps=6)
    finetune(base, [text], tmp_path / "whole", **options)
    code = (
        "import os, signal; from finetuning import Notes; from taskarith.training.finetune import finetune\n"
        "class Killed(Notes):\n"
        "    def progress(self, what, done, total):\n"
        "        done == 5 and os.kill(os.getpid(), signal.SIGKILL)\n"
        f"finetune({base!r}, [{text!r}], 'out', save_steps=2, listener=Killed(), **{options!r})"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    finetune(base, [text], tmp_path / "out", resume=True, **options)
    assert distance(tmp_path / "out", tmp_path / "whole") == 0


def _spoil(checkpoint: Path, how: str) -> None:
    trained = checkpoint / "trained.safetensors"
    if how == "names":
        held = load_file(trained)
        held["embed_out.weight"] = held.pop("lm_head.weight")
        save_file(held, trained)
    elif how == "shapes":
        save_file({name: t[:1] if name == "lm_head.weight" else t for name, t in load_file(trained).items()}, trained)
    elif how == "cut":
        trained.write_bytes(trained.read_bytes()[:-8])
    elif how == "optimizer":
        (checkpoint / "optimizer.pt").write_bytes(b"not a zip file")
    else:
        (checkpoint / how).unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("names", r"2 tensors differ, such as embed_out.weight \(\[384, 32\] in the checkpoint, absent in the model\)"),
        ("shapes", r"such as lm_head.weight \(\[1, 32\] in the checkpoint, \[384, 32\] in the model\)"),
        ("cut", "cannot read .*trained.safetensors"),
        ("optimizer", "cannot read the optimizer's state"),
        ("trained.safetensors", "does not have trained.safetensors: earlier releases"),
        ("optimizer.pt", "does not have optimizer.pt"),
        ("rng_state.pth", "does not have rng_state.pth"),
    ],
)
def test_a_checkpoint_that_does_not_load_whole_is_refused(tmp_path, text, interrupted, how, message):
    base, left = interrupted
    shutil.copytree(left, tmp_path / ".out.training")
    _spoil(tmp_path / ".out.training/checkpoint-2", how)
    damaged = "is not as it was written: " + (how if "." in how else r"(trained.safetensors|optimizer.pt)")
    for wanted in (damaged, message):
        with pytest.raises((CheckpointError, MismatchError), match=wanted):
            finetune(base, [text], tmp_path / "out", resume=True, **quick(max_steps=4))
        finish_checkpoint(tmp_path / ".out.training/checkpoint-2")  # as a stranger could
    assert [path.name for path in tmp_path.iterdir()] == [".out.training"]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, text) -> tuple[str, Path]:
    """A base and the folder that its interrupted training left."""
    room = tmp_path_factory.mktemp("interrupted")
    base = str(tiny.save_model(room / "base", "gpt_neox"))
    with pytest.raises(KeyboardInterrupt):
        finetune(base, [text], room / "out", save_steps=2, listener=Notes(interrupt_after=3), **quick(max_steps=4))
    return base, room / ".out.training"


def test_an_interrupted_run_without_checkpoints_leaves_nothing(tmp_path, text, phi):
    with pytest.raises(KeyboardInterrupt):
        finetune(str(phi), [text], tmp_path / "out", listener=Notes(interrupt_after=1), **QUICK)
    assert list(tmp_path.iterdir()) == []


def test_what_tensorboard_was_told_is_published(tmp_path, text, phi):
    logs = tmp_path / ".out.training" / "runs"

    class Writer(Notes):
        def progress(self, what: str, done: float, total: float) -> None:
            del what, total
            logs.mkdir(exist_ok=True)
            (logs / "events").write_text(f"{done:.0f}")

    finetune(str(phi), [text], tmp_path / "out", listener=Writer(), **QUICK)
    assert (tmp_path / "out/runs/events").read_text() == "2"


def test_overwrite_drops_old_checkpoints_and_outputs(tmp_path, text, tuned, phi):
    with pytest.raises(KeyboardInterrupt):
        finetune(str(phi), [text], tmp_path / "out", save_steps=1, listener=Notes(interrupt_after=2), **QUICK)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").touch()
    write_provenance(tmp_path / "out", {"kind": "evaluation"})
    finetune(str(phi), [text], tmp_path / "out", overwrite=True, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "results.json").exists()
    assert distance(tuned, tmp_path / "out") == 0


def test_resume_without_a_checkpoint_says_so(tmp_path, text, tuned, phi):
    notes = Notes()
    finetune(str(phi), [text], tmp_path / "out", resume=True, listener=notes, **QUICK)
    assert notes.notes[0].startswith("there is no checkpoint for")
    assert distance(tuned, tmp_path / "out") == 0


@pytest.mark.parametrize("resume", [True, False])
def test_checkpoints_of_an_earlier_release_are_kept(tmp_path, text, phi, resume):
    """They have no digests, and their run was noted without the number of processes."""
    with pytest.raises(KeyboardInterrupt):
        finetune(str(phi), [text], tmp_path / "out", save_steps=1, listener=Notes(interrupt_after=2), **QUICK)
    folder = tmp_path / ".out.training"
    run = json.loads((folder / "run.json").read_text())
    del run["processes"]
    (folder / "run.json").write_text(json.dumps(run))
    [digests] = folder.glob("checkpoint-*/digests.json")
    digests.unlink()
    with pytest.raises(OutputError, match="of an earlier release"):
        finetune(str(phi), [text], tmp_path / "out", save_steps=1, resume=resume, **QUICK)
    assert (digests.parent / "trainer_state.json").is_file()
