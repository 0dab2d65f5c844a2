"""What is refused before anything is done, and how a text is learned."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
import torch

from taskarith.errors import CheckpointError, DataError, MismatchError, UsageError
from taskarith.progress import SILENT
from taskarith.unlearning import look as looking
from taskarith.unlearning.look import check_call, choose_learning, look, missing, needed_space
from taskarith.unlearning.task import Learning, Task

FULL = Learning(lora=False, learning_rate=1.0, num_train_epochs=1, until_loss=None, batch_size=1)


@pytest.fixture
def task(tmp_path, phi):
    for seed, name in enumerate(("forget", "retain", "holdout")):
        (tmp_path / f"{name}.txt").write_text(tiny.text(8, seed), encoding="utf-8")

    def make(**changes):
        values = {
            "model": str(phi),
            "forget": str(tmp_path / "forget.txt"),
            "retain": (str(tmp_path / "retain.txt"),),
            "folder": tmp_path / "run",
            "holdout": None,
            "reference": None,
            "base": None,
            "learning": FULL,
            "keep": 0.4,
            "budget": 0.1,
            "alphas": (0.0, 1.0),
            "quick": False,
        }
        return Task(**{**values, **changes})

    return make


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"retain": ()}, "no retain set"),
        ({"reference": "m"}, "reference is the model itself"),
        ({"base": "m"}, "base is the model itself"),
        ({"keep": 1.5}, "--keep 1.5"),
        ({"keep": float("nan")}, "--keep nan"),
        ({"alphas": ()}, "no alpha"),
        ({"alphas": (0.0,)}, "no alpha"),
    ],
)
def test_a_call_that_contradicts_itself(changes, words):
    call = {"retain": ("r",), "reference": None, "base": None, "keep": 0.4, "alphas": (0.0, 1.0)} | changes
    with pytest.raises(UsageError, match=words):
        check_call("m", **call)


def test_texts_and_models_are_looked_at(task, phi, tmp_path):
    sight = look(task(holdout=str(tmp_path / "holdout.txt")), SILENT)
    assert set(sight.data) == {"forget", "retain", "holdout"}
    assert len(set(sight.fingerprints.values())) == 4
    assert "weights" in sight.lines[0]
    assert sight.learner is sight.base
    nbytes = sum(tensor.nbytes for tensor in sight.base.checkpoint.tensors.values())
    assert needed_space(task(), sight) == 4 * nbytes  # float32: a fine-tune, two vectors, the edited model
    assert needed_space(task(keep=0.0), sight) == 3 * nbytes


@pytest.mark.parametrize("name", ["retain", "holdout"])
def test_the_same_text_twice(task, tmp_path, name):
    copy = tmp_path / "copy.txt"
    copy.write_text((tmp_path / "forget.txt").read_text())
    changes = {"retain": (str(copy),)} if name == "retain" else {"holdout": str(copy)}
    with pytest.raises(DataError, match="are the same text"):
        look(task(**changes), SILENT)


def test_what_is_missing_or_does_not_fit(task, tmp_path):
    with pytest.raises(DataError, match=r"gone\.txt"):
        look(task(forget=str(tmp_path / "gone.txt")), SILENT)
    with pytest.raises(CheckpointError, match="gone"):
        look(task(model=str(tmp_path / "gone")), SILENT)
    with pytest.raises(CheckpointError, match="gone"):
        look(task(reference=str(tmp_path / "gone")), SILENT)
    other = tiny.save_model(tmp_path / "llama", "llama")
    with pytest.raises(MismatchError, match="same tensors"):
        look(task(base=str(other)), SILENT)


def test_what_a_full_proof_lacks(task):
    assert [one.split()[0] for one in missing(task())] == ["--reference", "--holdout"]
    assert missing(task(reference="r", holdout="h")) == ()


def choose(sight, **changes):
    options = {"lora": None, "learning_rate": None, "num_train_epochs": None, "device": "cpu"} | changes
    return choose_learning(sight, **options)


def test_what_fits_into_memory_is_trained(task, monkeypatch):
    sight = look(task(), SILENT)
    assert choose(sight)[0].lora is False
    for room, lora in ((1000, True), (None, False)):
        monkeypatch.setattr(looking, "available_memory", lambda _, room=room: room)
        learning, how = choose(sight)
        assert learning.lora is lora
        assert ("LoRA" in how) is lora
    assert choose(sight, lora=True)[1].startswith("LoRA fine-tuning (as asked)")


def test_steps_follow_the_width_and_who_learns(task, tmp_path, phi):
    on_top = look(task(), SILENT)
    base = str(tiny.save_model(tmp_path / "base", nudge_of=phi, seed=3))
    from_base = look(task(base=base), SILENT)
    width = on_top.base.config.hidden_size
    assert choose(on_top)[0].learning_rate == pytest.approx(3e-4 * 576 / width, rel=0.05)
    assert choose(on_top, lora=True)[0].learning_rate == pytest.approx(3e-3 * 576 / width, rel=0.05)
    assert choose(from_base, lora=True)[0].learning_rate == pytest.approx(5e-4 * 576 / width, rel=0.05)
    assert choose(on_top, learning_rate=1e-5)[0].learning_rate == 1e-5
    assert (choose(on_top)[0].num_train_epochs, choose(on_top)[0].until_loss) == (3, None)
    assert (choose(from_base)[0].num_train_epochs, choose(from_base)[0].until_loss) == (None, 0.5)
    assert choose(from_base, num_train_epochs=2)[0].until_loss is None


@pytest.mark.parametrize(("positions", "block_size"), [(64, 64), (256, None), (-1, None)])
def test_blocks_are_no_longer_than_the_model_has_positions(task, tmp_path, phi, positions, block_size):
    shutil.copytree(phi, tmp_path / "model")
    config = json.loads((phi / "config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"max_position_embeddings": positions}))
    learning, _ = choose(look(task(model=str(tmp_path / "model")), SILENT))
    assert learning.block_size == learning.options()["block_size"] == block_size


@pytest.mark.parametrize(("characters", "size"), [(100, 1), (63_999, 1), (64_000, 2), (10**6, 8)])
def test_longer_texts_take_more_blocks_a_step(task, tmp_path, characters, size):
    (tmp_path / "forget.txt").write_text("x " * (characters // 2))
    assert choose(look(task(), SILENT))[0].batch_size == size


def test_the_device_is_named(task):
    assert str(torch.device("cpu")) in look(task(device="cpu"), SILENT).lines[-1]
    with pytest.raises(UsageError):
        look(task(device="gpu"), SILENT)
