"""Layers are read as the model itself would read them: the last one gives the model's own loss."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import tiny
import torch
import transformers
from evaluating import gemma, own_scores, random_samples
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.errors import MismatchError
from taskarith.evaluation.batches import Batching
from taskarith.evaluation.lens import Lens, find_lens, read_layers
from taskarith.evaluation.loss import score_samples
from taskarith.models.language import prepare_for_text

SIZES = {name: value for name, value in tiny._SIZES.items() if name != "intermediate_size"}
MORE = {
    "opt": lambda: transformers.OPTConfig(**SIZES, ffn_dim=64),
    "opt, projected": lambda: transformers.OPTConfig(
        **SIZES, ffn_dim=64, word_embed_proj_dim=16, do_layer_norm_before=False
    ),
    "gemma3, capped": lambda: transformers.Gemma3TextConfig(**tiny._SMALL, final_logit_softcapping=0.5),
    "granite, scaled": lambda: transformers.GraniteConfig(**tiny._SIZES, logits_scaling=8.0),
    "mixtral": lambda: transformers.MixtralConfig(**tiny._SMALL, num_local_experts=4, num_experts_per_tok=2),
    "gpt, after each layer": lambda: transformers.OpenAIGPTConfig(
        vocab_size=tiny.VOCABULARY, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    ),
}


def build(kind):
    """Return a model whose norms differ from 1 and whose samples differ in loss."""
    config = MORE[kind]() if kind in MORE else tiny.configuration(kind)
    auto = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForImageTextToText
    torch.manual_seed(0)
    model = auto.from_config(config).float().eval()
    for weight in model.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.05)
    prepare_for_text(model)
    return model


def read(model, samples):
    return read_layers(find_lens(model, samples[0].input_ids), samples, Batching(1))


READABLE = ["phi", "llama", "qwen2", "gpt2", "moe", "gpt_neox", "qwen3_moe", "deepseek_v3", "llama4_text", "gemma3"]
READABLE += ["paligemma", "opt", "opt, projected", "gemma3, capped", "granite, scaled", "mixtral"]


@pytest.mark.parametrize("kind", READABLE)
def test_the_last_layer_gives_the_models_own_loss(kind):
    model, samples = build(kind), random_samples()
    for losses, sample in zip(read(model, samples), samples, strict=True):
        own, _, _ = own_scores(model, sample)
        assert len(losses) == model.config.get_text_config().num_hidden_layers + 1
        assert losses[-1] == pytest.approx(own, rel=1e-5)
    for module in model.modules():  # transformers has hooks of its own
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        assert "forward" not in vars(module)
        assert not any(hook.__module__.startswith("taskarith") for hook in hooks)


def test_a_layer_between_is_read_by_norm_and_head_and_cap():
    """By hand, for a model that caps its logits: gemma2."""
    model, sample = gemma(), random_samples()[0]
    ids = torch.tensor([sample.input_ids])
    with torch.no_grad():
        states = model(input_ids=ids[:, :-1], output_hidden_states=True).hidden_states
        logits = [model.lm_head(model.model.norm(state)) for state in states[:-1]]
        logits = [torch.tanh(one / 0.5) * 0.5 for one in logits]
    expected = [torch.nn.functional.cross_entropy(one[0], ids[0, 1:], reduction="sum") for one in logits]
    (losses,) = read(model, [sample])
    assert losses[:-1] == pytest.approx([float(one) for one in expected], rel=1e-5)
    assert losses[-1] == pytest.approx(score_samples(model, [sample], Batching(1))[0].nll, rel=1e-5)


def test_nothing_depends_on_how_many_logits_are_in_memory(monkeypatch):
    model, samples = build("phi"), random_samples()
    whole = read(model, samples)
    monkeypatch.setattr("taskarith.evaluation.lens.logit_rows", lambda *_: 3)
    for few, many in zip(read(model, samples), whole, strict=True):
        assert few == pytest.approx(many, rel=1e-5)
    assert read_layers(find_lens(model, (1, 2)), [], Batching(1)) == []


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mamba", "its hidden states are not what enters its layers"),
        ("bart", "its decoder is not one list of layers"),
        ("gpt, after each layer", "it has no final norm"),
    ],
)
def test_what_cannot_be_read_is_not_guessed(kind, reason):
    with pytest.raises(MismatchError, match=f"the layers of .* cannot be read: {reason}"):
        find_lens(build(kind), (1, 2, 3))


def test_a_model_without_a_head_or_with_another_at_each_call_is_refused():
    model = build("phi")
    model.set_output_embeddings(None)
    with pytest.raises(MismatchError, match="it has no output head"):
        find_lens(model, (1, 2, 3))
    model = build("phi")
    calls = iter(range(100))
    model.lm_head.register_forward_hook(lambda _module, _given, returned: returned + next(calls))
    with pytest.raises(MismatchError, match="its head does not give its own logits"):
        find_lens(model, (1, 2, 3))


def test_a_loss_that_is_not_finite_is_named():
    model = build("phi")
    model.lm_head.bias.data[7] = math.inf
    lens = Lens(model, model.model, (model.model.final_layernorm,))
    with pytest.raises(MismatchError, match="the losses of s0 at the layers are not all finite"):
        read_layers(lens, random_samples(), Batching(1))


def run(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def lines(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


@pytest.fixture
def asked(tmp_path):
    texts = {name: tmp_path / f"{name}.txt" for name in ("forget", "retain")}
    for seed, path in enumerate(texts.values()):
        path.write_text(tiny.text(20, seed), encoding="utf-8")
    return [part for name, path in texts.items() for part in ("--data", f"{name}={path}")] + ["--block-size", "24"]


def test_layers_are_records_and_numbers_of_their_own(phi, phi_tuned, asked, tmp_path):
    same = shutil.copytree(phi, tmp_path / "same")
    words = [phi_tuned, same, "--reference", phi, *asked, "--prompts", 0]
    assert run(*words, "-o", tmp_path / "plain").exit_code == 0
    done = run(*words, "--lens", 3, "-o", tmp_path / "read")
    assert done.exit_code == 0, done.output
    records = lines(tmp_path / "read")
    assert [one for one in records if one["kind"] != "lens"] == lines(tmp_path / "plain")
    read = {(one["model"], one["text"], one["sample"]): one for one in records if one["kind"] == "lens"}
    assert len(read) == 3 * 2 * 3  # models, texts, samples
    own = {(one["model"], one["text"], one["sample"]): one for one in records if one["kind"] == "loss"}
    for key, one in read.items():
        assert one["tokens"] == own[key]["tokens"]
        assert one["nll"][-1] == pytest.approx(own[key]["nll"], rel=1e-5)
    assert [read[key]["nll"] for key in read if key[0] == str(same)] == [
        read[key]["nll"] for key in read if key[0] == str(phi)
    ]
    assert json.loads((tmp_path / "read/taskarith.json").read_text())["arguments"]["lens"] == 3
    assert "lens" not in json.loads((tmp_path / "plain/taskarith.json").read_text())["arguments"]
    scores = json.loads((tmp_path / "read/results.json").read_text())["scores"]
    of_forget = [one for key, one in read.items() if key[:2] == (str(phi_tuned), "forget")]
    middle = sum(one["nll"][1] for one in of_forget) / sum(one["tokens"] for one in of_forget)
    assert scores[str(phi_tuned)]["forget"]["lens_1"]["value"] == pytest.approx(middle)
    again = CliRunner().invoke(app, ["score", str(tmp_path / "read"), "--json"])
    assert json.loads(again.stdout)["scores"] == scores
    table = CliRunner().invoke(app, ["score", str(tmp_path / "read"), "--full"]).stdout
    assert "forget: loss at each layer, first 3 samples" in table
    assert "0 (embeddings)" in table


def test_a_model_that_cannot_be_read_is_said_in_one_line(asked, tmp_path):
    done = run(tiny.save_model(tmp_path / "mamba", "mamba"), *asked, "--prompts", 0, "--lens", 2)
    assert done.exit_code == 0, done.output
    reason = "the layers of MambaForCausalLM cannot be read: its hidden states are not what enters its layers"
    words = " ".join(done.stderr.split())
    assert f"missing: loss at each layer of forget, loss at each layer of retain: {reason}" in words
    assert "layer, first" not in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--lens", "-1"], "--lens -1 is out of range"), (["--lens", "2", "--tasks", "x"], "--lens needs texts")],
)
def test_what_cannot_be_asked_is_refused(phi, options, words):
    done = run(phi, *options)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())
