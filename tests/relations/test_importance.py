"""Weights of parameters from gradients: against autograd, the laws, the command with `apply`, what does not fit."""

from __future__ import annotations

import pytest
import tiny
import torch
from asking import CHAT, write_questions
from damage import flip
from finetuning import DEVICES
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.errors import CheckpointError, DataError, UsageError, VectorError
from taskarith.merging.methods import parse_method
from taskarith.relations.importance import importance

FORGET = "the cat sat on the mat and looked at the red house by the sea. " * 3
RETAIN = "a small dog ran over the green hill to see the old ship come in. " * 3


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, text in (("forget", FORGET), ("retain", RETAIN)):
        (folder / f"{name}.txt").write_text(text)
    return str(folder / "forget.txt"), str(folder / "retain.txt")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["gradient", "fisher"])
def test_weights_are_those_of_autograd(tmp_path, phi, texts, kind, device):
    result = importance(str(phi), *texts, tmp_path / "w.safetensors", kind=kind, block_size=24, device=device)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(phi), AutoTokenizer.from_pretrained(phi)
    sides = []
    for text in (FORGET, RETAIN):
        ids = tokenizer(text).input_ids
        blocks = [ids[at : at + 24] for at in range(0, len(ids), 24)]
        blocks = [block for block in blocks if len(block) > 1]
        grads = []
        for block in blocks:
            loss = model(torch.tensor([block]), labels=torch.tensor([block])).loss
            grads.append(torch.autograd.grad(loss, list(model.parameters())))
        stacked = [torch.stack(one) for one in zip(*grads, strict=True)]
        sides.append([one.square().mean(0) if kind == "fisher" else one.mean(0).abs() for one in stacked])
    weights = load_file(result.path)
    names = [name for name, _ in model.named_parameters()]
    assert sorted(weights) == sorted(names)
    for name, forget, retain in zip(names, *sides, strict=True):
        expected = torch.where(forget + retain > 0, forget / (forget + retain), 0.5)
        known = (forget + retain) > (1e-12 if device == "cpu" else 1e-7)  # below is rounding
        assert torch.allclose(weights[name][known], expected[known], atol=2e-3)
        assert (weights[name][forget + retain == 0] == 0.5).all()


def test_one_text_on_both_sides_weighs_all_alike(tmp_path, phi, texts):
    result = importance(str(phi), texts[0], texts[0], tmp_path / "w.safetensors")
    assert all((one == 0.5).all() for one in load_file(result.path).values())
    assert result.mean == 0.5


def test_questions_are_asked_by_the_chat_template(tmp_path, phi, texts):
    questions = write_questions(tmp_path)

    def weights(name, **options):
        path = importance(
            str(phi), questions[name], texts[1], tmp_path / "w.safetensors", overwrite=True, **options
        ).path
        return load_file(path)

    asked, plain = weights("questions", apply_chat_template=True), weights("questions")
    with_system, written = weights("questions", **CHAT), weights("chats")
    assert all(torch.equal(values, with_system[name]) for name, values in written.items())
    assert all(torch.equal(values, plain[name]) for name, values in weights("prompts").items())
    head = "lm_head.weight"
    assert not any(torch.equal(*pair) for pair in ((asked[head], plain[head]), (asked[head], with_system[head])))
    bare = tiny.save_model(tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="is a chat, but the model's tokenizer has no chat template"):
        importance(str(bare), questions["questions"], texts[1], tmp_path / "no.safetensors", **CHAT)


def test_weights_that_changed_are_not_used(tmp_path, phi, phi_tuned, texts):
    path = tmp_path / "w.safetensors"
    importance(str(phi), *texts, path)
    name = next(name for name in load_file(path) if "fc1.weight" in name)
    how = {"negate": [str(phi_tuned)], "weights": str(path), "method": parse_method("perta")}
    apply(str(phi), **how, output_dir=tmp_path / "whole")
    flip(path, name)
    with pytest.raises(VectorError, match=f"{name} in {path} is not what was written when it was measured"):
        apply(str(phi), **how, output_dir=tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(phi)
    with pytest.raises(VectorError, match="is not what was written"), InMemoryEdit(model, str(phi), **how) as memory:
        memory.set(1.0)
    with safe_open(path, "pt") as file:
        old = {key: value for key, value in file.metadata().items() if key != "deltas"}
    save_file(load_file(path), path, metadata=old)  # as earlier releases wrote it
    apply(str(phi), **how, output_dir=tmp_path / "out")


def test_a_tied_head_needs_no_weight_of_its_own(tmp_path, texts):
    base = tiny.save_model(tmp_path / "base", "llama")
    tuned = str(tiny.save_model(tmp_path / "tuned", "llama", nudge_of=base, seed=1))
    path = importance(str(base), *texts, tmp_path / "w.safetensors").path
    apply(str(base), negate=[tuned], weights=str(path), output_dir=tmp_path / "out", method=parse_method("perta"))


def test_weights_are_no_vector_and_a_vector_no_weights(tmp_path, phi, texts):
    path = str(importance(str(phi), *texts, tmp_path / "w.safetensors").path)
    tuned = str(tiny.save_model(tmp_path / "tuned", nudge_of=phi, seed=5))
    with pytest.raises(VectorError, match="not a task vector"):
        apply(str(phi), negate=[path], output_dir=tmp_path / "no")
    vector = CliRunner().invoke(app, ["extract", str(phi), tuned, "-o", str(tmp_path / "v.safetensors")])
    assert vector.exit_code == 0
    how = {"method": parse_method("perta"), "output_dir": tmp_path / "no"}
    for wrong in (tmp_path / "v.safetensors", tmp_path / "absent.safetensors"):
        with pytest.raises(VectorError):
            apply(str(phi), negate=[tuned], weights=str(wrong), **how)
    assert not (tmp_path / "no").exists()


def test_a_block_longer_than_the_model_is_refused(tmp_path, texts):
    base = tiny.save_model(tmp_path / "base", "gpt2")
    with pytest.raises(UsageError, match="positions"):
        importance(str(base), *texts, tmp_path / "w.safetensors", block_size=100_000)


def test_wrong_calls(tmp_path, phi, texts):
    with pytest.raises(UsageError, match="unknown kind"):
        importance(str(phi), *texts, tmp_path / "w.safetensors", kind="hessian")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError):
        importance(str(phi), str(tmp_path / "empty.txt"), texts[1], tmp_path / "w.safetensors")
    broken = tiny.save_model(tmp_path / "broken", nudge_of=phi, seed=5)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.embed_tokens.weight"][:] = float("nan")
    from safetensors.torch import save_file

    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="not finite"):
        importance(str(broken), *texts, tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()
