"""Trainings that are interrupted go on to the same bits, or say why they cannot."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from finetuning import QUICK, Notes, distance, quick
from preloaded import run_together
from safetensors.torch import load_file, save_file

from taskarith.checkpoints.provenance import write_provenance
from taskarith.errors import CheckpointError, MismatchError, OutputError
from taskarith.training.finetune import finetune
from taskarith.training.resume import check_checkpoint, finish_checkpoint, training_folder

pytestmark = pytest.mark.usefixtures("one_thread")


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
    with pytest.raises(MismatchError, match=r"from another run: learning_rate \(0.001 then, 0.002 now\)"):
        finetune(base, [text], out, resume=True, **quick(max_steps=4, lora=lora, learning_rate=2e-3))
    notes = Notes()
    result = finetune(base, [text], out, resume=True, listener=notes, **options)
    assert [done for _, done, _ in notes.steps] == [3, 4]
    assert result.steps == 4
    assert distance(out, tmp_path / "whole") == 0
    assert not left.exists()


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
    elif how == "control":
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        (checkpoint / "trainer_state.json").write_text(json.dumps(state | {"stateful_callbacks": None}))
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
        ("control", "does not say how the training was controlled"),
        ("trained.safetensors", "does not contain trained.safetensors; checkpoints of earlier releases"),
        ("optimizer.pt", "does not contain optimizer.pt"),
        ("rng_state.pth", "does not contain rng_state.pth"),
    ],
)
def test_a_checkpoint_that_does_not_load_whole_is_refused(tmp_path, text, interrupted, how, message):
    base, left = interrupted
    shutil.copytree(left, tmp_path / ".out.training")
    _spoil(tmp_path / ".out.training/checkpoint-2", how)
    several = r"(trained.safetensors|optimizer.pt|trainer_state.json)"
    damaged = "was changed after it was written: " + (how if "." in how else several)
    for wanted in (damaged, message):
        with pytest.raises((CheckpointError, MismatchError), match=wanted):
            finetune(base, [text], tmp_path / "out", resume=True, **quick(max_steps=4))
        finish_checkpoint(tmp_path / ".out.training/checkpoint-2")  # as a stranger could
    assert [path.name for path in tmp_path.iterdir()] == [".out.training"]


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.pt", "trainer_state.json", "stranger"])
def test_a_pipe_in_a_checkpoint_is_refused_and_not_waited_for(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    finish_checkpoint(tmp_path)  # as a stranger could
    with pytest.raises(CheckpointError, match=r"does not list files of .* with their SHA-256"):
        check_checkpoint(tmp_path)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("stood", [False, True])
def test_an_interrupt_keeps_checkpoints_until_the_output_stands(tmp_path, published, stood):
    target, folder = tmp_path / "out", tmp_path / ".out.training"
    if stood:
        target.mkdir()
    one = SimpleNamespace(process_index=0, main_process_first=lambda **_: nullcontext())

    def interrupt():
        with training_folder(target, one, {}, resume=False):
            (folder / "checkpoint-1").mkdir()
            finish_checkpoint(folder / "checkpoint-1")
            if published:
                (tmp_path / "new").mkdir()
                (tmp_path / "new").rename(target)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        interrupt()
    assert folder.exists() is not published
    assert bool(getattr(caught.value, "__notes__", [])) is not published


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, text) -> tuple[str, Path]:
    """A base and the folder that its interrupted training left."""
    room = tmp_path_factory.mktemp("interrupted")
    base = str(tiny.save_model(room / "base", "gpt_neox"))
    with pytest.raises(KeyboardInterrupt):
        finetune(base, [text], room / "out", save_steps=2, listener=Notes(interrupt_after=3), **quick(max_steps=4))
    return base, room / ".out.training"


def test_a_checkpoint_is_on_the_disk_before_older_ones_go(tmp_path, monkeypatch):
    old, new = tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"
    for folder in (old, new):
        folder.mkdir()
        (folder / "trained.safetensors").write_bytes(b"weights")
    synced, before, fsync, remove = set(), [], os.fsync, shutil.rmtree

    def note(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def drop(folder):
        before.extend(synced)
        remove(folder)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(shutil, "rmtree", drop)
    finish_checkpoint(new)
    assert {path.stat().st_ino for path in (*new.iterdir(), new, tmp_path)} <= {*before}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize("data", ["", "[1]"])
def test_digests_that_are_broken_say_how_to_start_over(tmp_path, text, interrupted, data):
    base, left = interrupted
    shutil.copytree(left, tmp_path / ".out.training")
    (tmp_path / ".out.training/checkpoint-2/digests.json").write_text(data)
    with pytest.raises(CheckpointError) as caught:
        finetune(base, [text], tmp_path / "out", resume=True, **quick(max_steps=4))
    assert caught.value.hint == "Start over with --overwrite."


def test_an_interrupted_run_without_checkpoints_leaves_nothing(tmp_path, text, phi):
    with pytest.raises(KeyboardInterrupt):
        finetune(str(phi), [text], tmp_path / "out", listener=Notes(interrupt_after=1), **QUICK)
    assert list(tmp_path.iterdir()) == []


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


def test_an_output_that_stands_has_nothing_to_resume(tmp_path, text, tuned, phi):
    shutil.copytree(tuned, tmp_path / "out")
    with pytest.raises(OutputError, match="out already exists, so there is nothing to resume"):
        finetune(str(phi), [text], tmp_path / "out", resume=True, **QUICK)
    four, notes = quick(max_steps=4, save_steps=2, overwrite=True), Notes()
    with pytest.raises(KeyboardInterrupt):  # a run that was to replace it
        finetune(str(phi), [text], tmp_path / "out", listener=Notes(interrupt_after=3), **four)
    finetune(str(phi), [text], tmp_path / "out", resume=True, listener=notes, **four)
    assert [done for _, done, _ in notes.steps] == [3, 4]
    (tmp_path / "volume").mkdir()  # such as a container's
    finetune(str(phi), [text], tmp_path / "volume", resume=True, **QUICK)


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
    with pytest.raises(OutputError, match="from an earlier release"):
        finetune(str(phi), [text], tmp_path / "out", save_steps=1, resume=resume, **QUICK)
    assert (digests.parent / "trainer_state.json").is_file()


def test_trainings_killed_at_random_steps_resume_to_the_same_bits(tmp_path, preloaded):
    """Full and LoRA, one process and two, as the benchmark does it twenty times for more models."""
    words = ["-m", "benchmarks.resumes", "--models", "phi", "--kills", "1", "--table", "table.md"]
    [done] = run_together(1, preloaded / "preloaded-python", words, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "table.md").read_text().count("| tiny Phi |") == 4


_ON_TWO = """
import pytest
from taskarith.errors import MismatchError
from taskarith.training.finetune import finetune
from taskarith.training.trainer import ResumableTrainer

def step(self, *arguments, **options):
    if self.state.global_step == 3:
        raise KeyboardInterrupt
    return whole_step(self, *arguments, **options)

whole_step, ResumableTrainer.training_step = ResumableTrainer.training_step, step
with pytest.raises(MismatchError, match=r"from another run: processes \\(1 then, 2 now\\)"):
    finetune(*GIVEN, "one", resume=True, **OPTIONS)
with pytest.raises(KeyboardInterrupt):
    finetune(*GIVEN, "two", **OPTIONS)
"""


def test_checkpoints_of_another_number_of_processes_are_refused(tmp_path, text, phi, run_on_two):
    """More and fewer of them: the run says how many it had, and its checkpoint stays."""
    options = quick(max_steps=4, save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        finetune(str(phi), [text], tmp_path / "one", listener=Notes(interrupt_after=3), **options)
    given = ([str(phi), [text]], options)
    run_on_two(f"GIVEN, OPTIONS = {given!r}\n{_ON_TWO}", tmp_path)
    with pytest.raises(MismatchError, match=r"processes \(2 then, 1 now\)") as raised:
        finetune(str(phi), [text], tmp_path / "two", resume=True, **options)
    assert raised.value.hint == (
        "Resume with the same model, data, options and number of processes, or start over with --overwrite."
    )
    left = {f".{name}.training/checkpoint-2/trained.safetensors" for name in ("one", "two")}
    assert all((tmp_path / name).is_file() for name in left)
