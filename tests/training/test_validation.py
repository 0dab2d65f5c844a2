"""Validation while training: its loss is that of `eval`, and the best step's weights are published, however resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from finetuning import Notes, distance, quick

from taskarith.checkpoints.provenance import read_provenance
from taskarith.errors import CheckpointError, TaskarithError
from taskarith.evaluation.evaluate import evaluate
from taskarith.training import finetune as module
from taskarith.training.finetune import finetune
from taskarith.training.resume import last_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = quick(block_size=128, max_steps=40, lr_scheduler_type="constant", learning_rate=2e-2, patience=3)
OPTIONS |= {"validation_steps": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    """Its head is tied, and it has dropout."""
    return str(tiny.save_model(tmp_path_factory.mktemp("validation") / "base", "gpt2"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[str, str]:
    """Prompts and completions of several lengths, which have nothing in common but their words."""
    made, folder = {}, tmp_path_factory.mktemp("rows")
    for name, numbers in (("trained", range(8)), ("held", range(8, 13))):
        found = [{"prompt": tiny.text(1, n), "completion": tiny.text(1 + n % 3, 50 + n)} for n in numbers]
        made[name] = str(folder / f"{name}.jsonl")
        Path(made[name]).write_text("\n".join(map(json.dumps, found)), encoding="utf-8")
    return made


def train(base: str, rows: dict[str, str], out: Path, **more: Any) -> Any:
    return finetune(base, [rows["trained"]], out, validation=[rows["held"]], **{**OPTIONS, **more})


def loss_by_eval(model: Path, data: str) -> float:
    measured = evaluate([str(model)], {"held": data}, block_size=128, device="cpu", prompts=1)
    [texts] = measured.scores.by_text.values()
    return texts["held"]["loss"].value


@pytest.fixture(scope="module", params=[False, True], ids=["full", "lora"])
def trained(request, tmp_path_factory, base, rows) -> tuple[bool, Path, Any]:
    """A training that ended early, uninterrupted."""
    out = tmp_path_factory.mktemp("early") / "out"
    return request.param, out, train(base, rows, out, lora=request.param)


def test_the_weights_of_the_best_step_are_published_and_their_loss_is_that_of_eval(tmp_path, base, rows, trained):
    lora, out, result = trained
    assert 0 < result.best_step == result.steps - 6 < 34
    assert result.validation_loss == pytest.approx(loss_by_eval(out, rows["held"]), rel=1e-6)
    record = read_provenance(out)
    assert record is not None
    assert (record["best_step"], record["validation_loss"]) == (result.best_step, result.validation_loss)
    assert (record["validation"][0]["samples"], record["arguments"]["patience"]) == (5, 3)
    alone = {name: value for name, value in OPTIONS.items() if name not in {"patience", "validation_steps"}}
    alone |= {"lora": lora, "max_steps": result.best_step}
    finetune(base, [rows["trained"]], tmp_path / "to-there", **alone)  # the evaluations change nothing
    assert distance(out, tmp_path / "to-there") == 0


@pytest.mark.parametrize("save_steps", [3, 4])
def test_an_interrupted_training_publishes_what_the_uninterrupted_one_does(
    tmp_path, base, rows, trained, save_steps, monkeypatch
):
    """It is stopped between a checkpoint and the best step, after the best step, and before it is published."""
    lora, whole, result = trained
    out, more = tmp_path / "out", {"lora": lora, "save_steps": save_steps}
    left = tmp_path / ".out.training"

    def stopped(after: int | None = None, **options: Any) -> None:
        with pytest.raises(KeyboardInterrupt):
            train(base, rows, out, listener=Notes(interrupt_after=after), **more, **options)

    stopped(result.best_step - 1)
    stopped(result.best_step + 1, resume=True)
    with monkeypatch.context() as patched:
        patched.setattr(module, "publish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        stopped(resume=True)
    assert len(list(left.glob("best-*"))) <= 2
    checkpoint = last_checkpoint(left)
    assert checkpoint is not None
    assert int(checkpoint.name[11:]) < result.steps
    resumed = train(base, rows, out, resume=True, **more)
    assert (resumed.best_step, resumed.validation_loss) == (result.best_step, result.validation_loss)
    assert resumed.steps == result.steps
    assert distance(out, whole) == 0
    assert not left.exists()


def test_what_was_kept_of_the_best_step_is_not_loaded_if_it_was_changed(tmp_path, base, rows, trained, monkeypatch):
    lora, _, result = trained

    class Changing(Notes):
        def progress(self, what: str, done: float, total: float) -> None:
            super().progress(what, done, total)
            if done == result.best_step + 1:
                file = tmp_path / f".out.training/best-{result.best_step}/trained.safetensors"
                file.write_bytes(file.read_bytes()[:-1] + b"?")

    with pytest.raises(CheckpointError, match=r"what is kept of the best step in .* was changed after it was written"):
        train(base, rows, tmp_path / "out", lora=lora, listener=Changing())
    assert not (tmp_path / "out").exists()


def test_two_processes_find_what_one_finds(tmp_path, rows, run_on_two):
    """Five rows in batches of two: a process has one batch more than the other."""
    phi = str(tiny.save_model(tmp_path / "base"))  # without dropout
    calm = {"learning_rate": 1e-3, "max_steps": 4, "max_grad_norm": 0.0}
    one = train(phi, rows, tmp_path / "one", lora=True, **calm)
    options = {**OPTIONS, "per_device_train_batch_size": 2, "validation": [rows["held"]]}
    code = (
        "from taskarith.training.finetune import finetune\n"
        f"done = finetune({phi!r}, [{rows['trained']!r}], 'two', lora=True, **{options | calm!r})\n"
        f"assert done.best_step == {one.best_step}, done\n"
        f"assert abs(done.validation_loss - {one.validation_loss}) < 1e-6, done\n"
        f"early = finetune({phi!r}, [{rows['trained']!r}], 'early', **{options!r})\n"
        "assert early.best_step == early.steps - 6, early"
    )
    run_on_two(code, tmp_path)
    assert distance(tmp_path / "one", tmp_path / "two") < 2e-6


def test_each_epoch_ends_with_an_evaluation_and_so_does_the_training(tmp_path, base, rows):
    notes = Notes()
    train(base, rows, tmp_path / "out", max_steps=5, patience=None, validation_steps=None, listener=notes)
    losses = [what.partition("validation ")[2].partition(" ")[0] for what, _, _ in notes.steps]
    assert len(set(losses)) == 3, losses  # of the base and after the steps 2 and 4; the last one ends the training


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path, base, rows):
    with pytest.raises(TaskarithError, match="training diverged: the validation loss is nan at step 1"):
        train(base, rows, tmp_path / "out", learning_rate=1e30, validation_steps=1)
    assert list(tmp_path.iterdir()) == []
