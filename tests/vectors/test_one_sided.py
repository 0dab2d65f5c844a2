"""Tensors that only one of base and fine-tune has: tied ones, buffers, other names, and what is said of the rest."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import oracle
import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.undo import undo
from taskarith.errors import MismatchError
from taskarith.inspection.verify import verify
from taskarith.vectors.buffers import is_buffer
from taskarith.vectors.extract import extract
from taskarith.vectors.low_rank import extract_low_rank

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def save(folder, tensors, **config):
    folder.mkdir(exist_ok=True)
    save_file({name: t.clone().contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return folder


def make(source, folder, change, **config):
    """Copy a model folder with other tensors, and perhaps another configuration."""
    shutil.copytree(source, folder)
    tensors = change(load_file(source / "model.safetensors"))
    save_file({name: t.clone().contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    whole = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(whole))
    return folder


def renamed(rename):
    return lambda tensors: {rename(name): t for name, t in tensors.items()}


def put(**more):
    return lambda tensors: tensors | {name.replace("__", "."): t for name, t in more.items()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A tiny Llama with a tied head, and a fine-tune of it."""
    place = tmp_path_factory.mktemp("pair")
    base = tiny.save_model(place / "base", "llama")
    return base, tiny.save_model(place / "tuned", "llama", nudge_of=base, seed=1)


# ---- ties: equal bits are one only of what has a row for each token and is not the same everywhere

N = 16
E = torch.randn(N, 8, generator=torch.Generator().manual_seed(0))
ROWS_ALIKE = E[:1].expand(N, 8)
TIES = {  # tensors of the base; of the fine-tune; what the base's lone tensor takes, None if it is refused
    "head": ({EMBED: E, HEAD: E}, {EMBED: E + 1}, E + 1),
    "encoder's embedding": ({"shared": E, "encoder.embed": E, "decoder.embed": E}, {"shared": E + 1}, E + 1),
    "bias of a head": (
        {EMBED: E, "b": E[:, 0], "decoder.bias": E[:, 0]},
        {EMBED: E + 1, "b": E[:, 0] + 2},
        E[:, 0] + 2,
    ),
    "two copies that move alike": ({"a": E, "b": E, "z": E}, {"a": E + 1, "b": E + 1}, E + 1),
    "two copies that part": ({"a": E, "b": E, "z": E}, {"a": E + 1, "b": E + 2}, None),
    "zeros": ({EMBED: E, "a": 0 * E[:8], "b": 0 * E[:8]}, {EMBED: E, "b": 0 * E[:8] + 5}, None),
    "zeros with a row a token": ({EMBED: 0 * E, HEAD: 0 * E}, {EMBED: E}, None),
    "zeros of both signs": ({EMBED: 0 * E, HEAD: 0 * E}, {EMBED: E}, None),
    "ones": ({EMBED: E**0, HEAD: E**0}, {EMBED: E}, None),
    "rows that are alike": ({EMBED: ROWS_ALIKE, HEAD: ROWS_ALIKE}, {EMBED: E}, None),
    "NaN": ({EMBED: E * torch.nan, HEAD: E * torch.nan}, {EMBED: E}, None),
    "layers": ({EMBED: E, "layers.0.up": E[:8], "layers.1.up": E[:8]}, {EMBED: E, "layers.0.up": E[:8] + 1}, None),
    "three dimensions": ({EMBED: E, "a": E[None], "b": E[None]}, {EMBED: E, "a": E[None] + 1}, None),
}


@pytest.mark.parametrize("case", TIES)
@pytest.mark.parametrize("form", [{}, {"exact": True}, {"bits": 8}, {"top_k": 1.0}, None])
def test_a_tensor_that_only_the_base_has_is_tied_or_refused(tmp_path, case, form):
    before, after, expected = TIES[case]
    base, tuned = save(tmp_path / "base", before), save(tmp_path / "tuned", after)
    (lone,) = before.keys() - after.keys() if "encoder" not in case else {"encoder.embed"}
    operand = str(tmp_path / "v.safetensors")

    def edit():
        if form is None:
            (tuned / "taskarith.json").write_text(json.dumps({"base": {"name": str(base)}}))
            return apply(str(base), add=[str(tuned)], output_dir=tmp_path / "out")
        extract(str(base), str(tuned), operand, **form)
        return apply(str(base), add=[operand], output_dir=tmp_path / "out")

    if expected is None:
        with pytest.raises(MismatchError, match=f"1 tensors of .*base are not in .*tuned: {lone}"):
            edit()
        return
    assert edit().actions["tied"] == len(before) - len(after)
    found = oracle.load(tmp_path / "out")
    torch.testing.assert_close(found[lone], expected, rtol=0, atol=0.02 if form == {"bits": 8} else 1e-6)


@pytest.mark.parametrize("case", [name for name, (_, _, expected) in TIES.items() if expected is None])
def test_a_tensor_that_only_the_model_has_is_not_taken_for_a_copy_either(tmp_path, case):
    before, after, _ = TIES[case]
    known = {name: t for name, t in before.items() if name in after}
    base, tuned, model = (save(tmp_path / n, t) for n, t in (("base", known), ("tuned", after), ("model", before)))
    (lone,) = before.keys() - after.keys()
    for form in ({}, {"exact": True}):
        if case != "NaN":
            path = str(extract(str(base), str(tuned), tmp_path / f"{len(form)}.safetensors", **form).path)
            with pytest.raises(MismatchError, match=rf"1 tensors of .*model are unknown to .*: {lone}"):
                apply(str(model), add=[path], output_dir=tmp_path / "out")


def test_a_copy_on_the_side_of_the_fine_tune_is_left_out(tmp_path):
    base, tuned = save(tmp_path / "base", {EMBED: E}), save(tmp_path / "tuned", {EMBED: E + 1, HEAD: E + 1})
    assert extract(str(base), str(tuned), tmp_path / "v.safetensors").tensors == 1
    save(tuned, {EMBED: 0 * E, HEAD: 0 * E})
    with pytest.raises(MismatchError, match=f"1 tensors of .*tuned are not in .*base: {HEAD}") as caught:
        extract(str(base), str(tuned), tmp_path / "w.safetensors")
    assert "not a copy" not in caught.value.message


# ---- names: where they differ by a rule, the rule is named, and the command of the hint makes them agree


def nested(name):
    return name.replace("model.", "model.language_model.", 1)


NAMES = {
    "torch.compile": (renamed(lambda n: f"_orig_mod.{n}"), "tuned have '_orig_mod.' in them"),
    "torch.compile of layers": (renamed(lambda n: n.replace("layers.0", "layers.0._orig_mod")), "'_orig_mod.' in them"),
    "FSDP": (renamed(lambda n: n.replace("layers.0.", "layers.0._fsdp_wrapped_module.")), "'_fsdp_wrapped_module.' in"),
    "DataParallel": (renamed(lambda n: f"module.{n}"), "tuned begin with 'module.'"),
    "both": (renamed(lambda n: f"_orig_mod.module.{n}"), "tuned begin with '_orig_mod.module.'"),
    "without model.": (renamed(lambda n: n.removeprefix("model.")), "tuned lack 'model.' in front"),
    "another part": (renamed(nested), "tuned begin with 'model.language_model.' in place of 'model.'"),
    "doubled": (renamed(lambda n: n.replace("up_proj.", "up_proj.up_proj.")), "a part twice, as 'up_proj.up_proj'"),
    "compiled, head stored": (
        lambda tensors: {f"_orig_mod.{n}": t for n, t in (tensors | {HEAD: tensors[EMBED]}).items()},
        "'_orig_mod.' in them",
    ),
}  # fmt: skip


def run_hint(hint, place):
    """Type what a hint says to type; return the folder that it makes."""
    command = hint[hint.index("python -c") :].split(" --ignore")[0].replace("python -c", f"{sys.executable} -c")
    subprocess.run(["bash", "-c", command], cwd=place, check=True)
    (made,) = [path for path in place.iterdir() if path.name.endswith(("-renamed", "-untied"))]
    return made


def in_many_shards(folder):
    tensors, index = load_file(folder / "model.safetensors"), {}
    for number, (name, tensor) in enumerate(tensors.items()):
        index[name] = f"model-{number + 1:05}-of-{len(tensors):05}.safetensors"
        save_file({name: tensor}, folder / index[name])
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


@pytest.mark.parametrize("case", NAMES)
def test_names_that_differ_by_a_rule_are_explained(tmp_path, pair, case):
    base, tuned = pair
    change, words = NAMES[case]
    other = make(tuned, tmp_path / "tuned", change)
    with pytest.raises(MismatchError, match=r"tensors of .*tuned are not in") as caught:
        extract(str(base), str(other), tmp_path / "v.safetensors")
    assert words in caught.value.message
    assert "python -c" in caught.value.hint


@pytest.mark.parametrize("case", ["compiled, head stored", "without model.", "another part", "doubled"])
def test_the_command_that_is_proposed_renames_the_tensors(tmp_path, pair, case):
    base, tuned = pair
    other = make(tuned, tmp_path / "it's tuned", NAMES[case][0])
    if case == "another part":
        in_many_shards(other)
    with pytest.raises(MismatchError) as caught:
        extract(str(base), str(other), tmp_path / "v.safetensors")
    made = run_hint(caught.value.hint, tmp_path)
    assert made.name == "it's tuned-renamed"
    extract(str(base), str(made), tmp_path / "v.safetensors")
    extract(str(base), str(tuned), tmp_path / "w.safetensors")
    assert oracle.differing(load_file(tmp_path / "v.safetensors"), load_file(tmp_path / "w.safetensors")) == []


def test_other_differences_are_not_called_a_matter_of_names(tmp_path, pair):
    base, tuned = pair
    for change in (
        lambda tensors: {f"module.{n}": t for n, t in tensors.items() if "layers.1" not in n},
        lambda tensors: tensors | {n.replace("layers.1", "layers.2"): t for n, t in tensors.items() if "layers.1" in n},
        lambda tensors: {n: t for n, t in tensors.items() if "norm" not in n} | {"mtp.fc.weight": torch.ones(4, 4)},
    ):
        other = make(tuned, tmp_path / "other", change)
        with pytest.raises(MismatchError, match="are not in") as caught:
            extract(str(base), str(other), tmp_path / "v.safetensors")
        assert "the names of" not in caught.value.message
        assert "python" not in caught.value.hint
        shutil.rmtree(other)


def test_an_adapter_that_was_not_merged_is_named(tmp_path, pair):
    base, tuned = pair
    q = "layers.0.self_attn.q_proj"
    more = put(**{f"base_model.model.model.{q}.lora_A.default.weight": torch.ones(2, 32)})
    other = make(tuned, tmp_path / "other", lambda t: more({f"base_model.model.{n}": v for n, v in t.items()}))
    with pytest.raises(MismatchError, match="holds an adapter that is not merged") as caught:
        extract(str(base), str(other), tmp_path / "v.safetensors")
    assert "merge_and_unload" in caught.value.hint


@pytest.mark.parametrize(
    "part", [lambda t: t[:0].flatten(), lambda t: torch.zeros_like(t[:0]), lambda t: t.flatten()[:5]]
)
def test_what_is_left_of_spread_parameters_is_named(tmp_path, pair, part):
    base, tuned = pair
    name = "model.layers.1.mlp.up_proj.weight"
    other = make(tuned, tmp_path / "other", lambda t: t | {name: part(t[name])})
    with pytest.raises(
        MismatchError, match=rf"1 tensors of .*other are empty, or a flat .*{name} \[[05].* for"
    ) as caught:
        extract(str(base), str(other), tmp_path / "v.safetensors")
    assert "zero_to_fp32.py" in caught.value.hint
    with pytest.raises(MismatchError, match=rf"1 tensors of .*other are empty, or a flat .*{name} "):
        extract(str(other), str(tuned), tmp_path / "v.safetensors")
    vector = str(extract(str(base), str(tuned), tmp_path / "v.safetensors").path)
    with pytest.raises(MismatchError, match=rf"other are empty, or a flat part of what .*v\.safetensors has: {name}"):
        apply(str(other), add=[vector], output_dir=tmp_path / "out")


@pytest.mark.parametrize("case", ["torch.compile", "another part", "doubled", "compiled, head stored"])
def test_a_model_whose_names_differ_from_the_vector_s_by_a_rule(tmp_path, pair, case):
    base, tuned = pair
    vector = str(extract(str(base), str(tuned), tmp_path / "v.safetensors").path)
    model = make(base, tmp_path / "model", NAMES[case][0])
    with pytest.raises(
        MismatchError, match=r"tensors of .*v\.safetensors are not in .*model: .*; the names of"
    ) as caught:
        apply(str(model), add=[vector], output_dir=tmp_path / "out")
    assert "which makes the folder model-renamed: python -c" in caught.value.hint
    other = tiny.save_model(tmp_path / "qwen2", "qwen2")
    with pytest.raises(MismatchError) as caught:
        apply(str(other), add=[vector], output_dir=tmp_path / "out")
    assert "apply it to a model of that architecture" in caught.value.hint


# ---- heads that are tied on one side only


@pytest.mark.parametrize(("kind", "side"), [("llama", "tuned"), ("gpt2", "base")])
def test_a_head_of_its_own_is_explained_and_the_other_model_untied(tmp_path, kind, side):
    base = tiny.save_model(tmp_path / "base", kind)
    tuned = tiny.save_model(tmp_path / "tuned", kind, nudge_of=base, seed=1)
    embedding = next(
        n for n in load_file(base / "model.safetensors") if n.endswith(("embed_tokens.weight", "wte.weight"))
    )
    sides = {"base": base, "tuned": tuned}
    untied = make(sides[side], tmp_path / "untied", lambda t: t | {HEAD: t[embedding] + 0.1})
    tied = sides.pop(next(name for name in sides if name != side))
    first, second = (untied, tied) if side == "base" else (tied, untied)
    with pytest.raises(
        MismatchError, match=rf"1 tensors of .*untied are not in .*: {HEAD}; it is not a copy of"
    ) as caught:
        extract(str(first), str(second), tmp_path / "v.safetensors")
    assert f"{untied} is untied, and {tied} is tied" in caught.value.message
    made = run_hint(caught.value.hint, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(made)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    assert torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)
    first, second = (made if one == tied else one for one in (first, second))
    extract(str(first), str(second), tmp_path / "v.safetensors", exact=True)
    apply(str(first), add=[str(tmp_path / "v.safetensors")], output_dir=tmp_path / "out")
    assert oracle.differing(oracle.load(tmp_path / "out"), oracle.load(second)) == []


def test_a_lost_head_is_not_called_tied(tmp_path, pair):
    base, tuned = pair
    base = make(base, tmp_path / "base", lambda t: t | {HEAD: t[EMBED] + 0.1}, tie_word_embeddings=False)
    other = make(tuned, tmp_path / "other", lambda t: t, tie_word_embeddings=False)
    with pytest.raises(MismatchError, match=r"other is not tied, as its config\.json says, and has lost it"):
        extract(str(base), str(other), tmp_path / "v.safetensors")


def test_a_vector_of_tied_models_is_refused_on_an_untied_one(tmp_path, pair):
    base, tuned = pair
    vector = str(extract(str(base), str(tuned), tmp_path / "v.safetensors").path)
    model = make(base, tmp_path / "model", lambda t: t | {HEAD: t[EMBED] + 0.1})
    with pytest.raises(MismatchError, match=f"1 tensors of .*model are unknown to .*: {HEAD}; .* is untied") as caught:
        apply(str(model), add=[vector], output_dir=tmp_path / "out")
    assert "extract it from untied ones" in caught.value.hint


# ---- buffers

A = "model.layers.0.self_attn."
TRIL = torch.ones(1, 1, 8, 8).tril()
BUFFERS = {
    f"{A}rotary_emb.inv_freq": torch.rand(4),
    "model.rotary_emb.original_inv_freq": torch.rand(4),
    "model.rotary_emb.full_attention_inv_freq": torch.rand(4),
    f"{A}rotary_emb.cos_cached": torch.rand(1, 1, 8, 4),
    f"{A}attention.bias": TRIL.to(torch.uint8),
    f"{A}attn.bias": TRIL,
    "h.0.crossattention.bias": TRIL.bool(),
    "h.0.attn.attention.bias": TRIL - TRIL.tril(-3),
    f"{A}attention.masked_bias": torch.tensor(-1e9),
    f"{A}attn.masked_bias": torch.tensor(-1e4, dtype=torch.float16),
    f"{A}causal_mask": torch.full((8, 8), torch.finfo(torch.bfloat16).min, dtype=torch.bfloat16).triu(1),
    f"{A}attn_mask": torch.full((1, 8, 8), -torch.inf).triu(1),
    "embeddings.position_ids": torch.arange(8)[None],
    "norm.num_batches_tracked": torch.tensor(3),
    "final_logits_bias": torch.zeros(1, 9),
    "decoder.version": torch.tensor([3.0]),
    "freqs_cis": torch.ones(4, 2, dtype=torch.complex64),
}
LEARNED = {
    f"{A}attn.bias": torch.randn(1, 1, 8, 8),
    f"{A}attention.bias": torch.zeros(1, 1, 8, 8),
    "h.0.attn.bias": TRIL + 1e-3 * TRIL.tril(-1),
    "h.1.attn.bias": TRIL.mT,
    "h.2.attn.bias": torch.ones(64),
    "h.3.attn.bias": TRIL.squeeze()[:, :4],
    "h.4.attn.bias": torch.ones(1, 1, 1, 1),
    f"{A}rotary_emb.inv_freq": torch.rand(4, 4),
    f"{A}attn.masked_bias": torch.tensor(-1.0),
    f"{A}masked_bias": torch.full((2,), -1e9),
    f"{A}pruning_mask": torch.rand(8, 8).round(),
    "final_logits_bias": torch.full((1, 9), 1e-3),
    "mtp.fc.weight": torch.ones(4, 4),
    "mlp.gate.e_score_correction_bias": torch.zeros(4),
    "norm.running_mean": torch.zeros(4),
    "logit_scale": torch.tensor(-1e9),
    f"{A}q_proj.qweight": torch.ones(4, 4, dtype=torch.int32),
    "experts.gate_up_proj_blocks": torch.ones(4, 4, dtype=torch.uint8),
    "extra": torch.ones(4, 4).to(torch.float8_e4m3fn),
}


def judge(folder, name, tensor):
    with TensorReader() as reader:
        return is_buffer(open_checkpoint(save(folder, {name: tensor})).tensors[name], reader)


@pytest.mark.parametrize("name", BUFFERS)
def test_a_buffer_is_known(tmp_path, name):
    assert judge(tmp_path / "m", name, BUFFERS[name])


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_weight_is_not_taken_for_a_buffer(tmp_path, name):
    assert not judge(tmp_path / "m", name, LEARNED[name])


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_buffers_that_one_side_has_are_left_out_when_asked(tmp_path, pair, side):
    base, tuned = pair
    more = make(base if side == "base" else tuned, tmp_path / "more", lambda t: t | BUFFERS)
    first, second = (more, tuned) if side == "base" else (base, more)
    with pytest.raises(MismatchError, match=rf"{len(BUFFERS)} tensors of .*; all of them are buffers") as caught:
        extract(str(first), str(second), tmp_path / "v.safetensors")
    assert "--ignore-buffers" in caught.value.hint
    result = extract(str(first), str(second), tmp_path / "v.safetensors", ignore_buffers=True)
    assert (set(result.ignored), result.tensors) == (set(BUFFERS), 20)
    with safe_open(tmp_path / "v.safetensors", "pt") as file:
        metadata = file.metadata()
    assert set(json.loads(metadata["ignored_buffers"])) == set(BUFFERS)
    assert metadata["base_fingerprint"] == fingerprint_model(first)
    assert json.loads(metadata["finetuned"])["fingerprint"] == fingerprint_model(second)
    assert verify(tmp_path / "v.safetensors").sampled > 0
    apply(str(first), add=[str(tmp_path / "v.safetensors")], output_dir=tmp_path / "out")
    expected = load_file(tuned / "model.safetensors") | (BUFFERS if side == "base" else {})
    assert oracle.differing(oracle.load(tmp_path / "out"), expected) == []
    assert verify(tmp_path / "out").is_sound


@pytest.mark.parametrize("name", ["mtp.fc.weight", "h.0.attn.bias"])
@pytest.mark.parametrize("side", ["base", "tuned"])
def test_a_learned_weight_is_never_left_out(tmp_path, pair, name, side):
    base, tuned = pair
    extra = {name: LEARNED[name], f"{A}rotary_emb.original_inv_freq": torch.rand(4)}
    more = make(base if side == "base" else tuned, tmp_path / "more", lambda t: t | extra)
    first, second = (more, tuned) if side == "base" else (base, more)
    with pytest.raises(MismatchError, match=rf"1 tensors of .*more are not in .*: {name}") as caught:
        extract(str(first), str(second), tmp_path / "v.safetensors", ignore_buffers=True)
    assert "--ignore-buffers" not in caught.value.hint
    with pytest.raises(MismatchError, match=r"2 tensors of .*more are not in"):
        extract(str(first), str(second), tmp_path / "v.safetensors")


def masked(folder, source, dtype=torch.float32):
    """Write a GPT-2 as it lies on the hub: without its prefix, with masks."""

    def change(tensors):
        plain = {name.removeprefix("transformer."): t for name, t in tensors.items()}
        return plain | {f"h.{layer}.attn.bias": TRIL.to(dtype) for layer in range(2)}

    return make(source, folder, change)


def test_gpt2_of_the_hub_and_a_fine_tune_that_transformers_saved(tmp_path):
    base = tiny.save_model(tmp_path / "base", "gpt2")
    tuned = tiny.save_model(tmp_path / "tuned", "gpt2", nudge_of=base, seed=1)
    hub = masked(tmp_path / "hub", base)
    with pytest.raises(
        MismatchError, match=r"30 tensors of .*; 28 tensors of .*tuned begin with 'transformer\.'"
    ) as caught:
        extract(str(hub), str(tuned), tmp_path / "v.safetensors")
    assert "--ignore-buffers" in caught.value.hint
    renamed = run_hint(caught.value.hint, tmp_path)
    vector = str(extract(str(hub), str(renamed), tmp_path / "v.safetensors", ignore_buffers=True).path)
    apply(str(hub), add=[vector], output_dir=tmp_path / "out")
    expected = load_file(hub / "model.safetensors") | load_file(renamed / "model.safetensors")
    assert oracle.differing(oracle.load(tmp_path / "out"), expected) == []


def test_apply_leaves_buffers_as_the_model_has_them_and_repeats_it(tmp_path, pair):
    base, tuned = pair
    more = {f"{A}rotary_emb.inv_freq": torch.rand(4), f"{A}attention.bias": TRIL.to(torch.uint8)}
    model = make(base, tmp_path / "model", lambda t: t | more)
    (tuned / "taskarith.json").write_text(json.dumps({"base": {"name": str(model)}}))
    vector = str(extract(str(base), str(tuned), tmp_path / "v.safetensors").path)
    for operand in (str(tuned), vector):
        with pytest.raises(MismatchError, match="are buffers") as caught:
            apply(str(model), negate=[operand], output_dir=tmp_path / "refused")
        assert "--ignore-buffers" in caught.value.hint
        out = tmp_path / f"out{len(operand)}"
        done = CliRunner().invoke(
            app, ["apply", str(model), "--negate", operand, "-o", str(out), "--ignore-buffers", "--keep-undo"]
        )
        assert done.exit_code == 0, done.output
        words = " ".join(done.output.split())
        assert "left out 2 buffers" in words
        assert f"{A}rotary_emb.inv_freq" in words
        found = load_file(out / "model.safetensors")
        assert all(torch.equal(found[name], tensor) for name, tensor in more.items())
        assert json.loads((out / "taskarith.json").read_text())["ignore_buffers"] is True
        assert verify(out).sampled > 0
        again = ["apply", "--config", str(out / "taskarith.json"), "-o", f"{out}-again"]
        done = CliRunner().invoke(app, again)
        assert done.exit_code == 0, done.output
        assert oracle.differing(oracle.load(tmp_path / f"{out.name}-again"), found) == []
        undo(out, tmp_path / f"{out.name}-back")
        assert oracle.differing(oracle.load(tmp_path / f"{out.name}-back"), oracle.load(model)) == []
    (tuned / "taskarith.json").unlink()


def test_the_command_and_low_rank_leave_buffers_out(tmp_path, pair):
    base, tuned = pair
    name = f"{A}rotary_emb.inv_freq"
    model = make(base, tmp_path / "model", lambda t: t | {name: torch.rand(4)})
    done = CliRunner().invoke(
        app, ["extract", str(model), str(tuned), "-o", str(tmp_path / "v.safetensors"), "--ignore-buffers", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["ignored"] == [name]
    assert f"left out 1 buffers that only one side has: {name}" in " ".join(done.stderr.split())
    with pytest.raises(MismatchError, match="buffers"):
        extract_low_rank(str(model), str(tuned), tmp_path / "lora", rank=4)
    result = extract_low_rank(str(model), str(tuned), tmp_path / "lora", rank=4, ignore_buffers=True)
    assert any(name in remark for remark in result.remarks)
    assert json.loads((tmp_path / "lora/taskarith.json").read_text())["ignored_buffers"] == [name]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e5m2, torch.int32, torch.bool])
def test_what_cannot_be_subtracted_is_named_with_its_dtype(tmp_path, pair, dtype):
    base, tuned = pair
    first = make(base, tmp_path / "first", lambda t: t | {"extra": torch.ones(4).to(dtype)})
    second = make(tuned, tmp_path / "second", lambda t: t | {"extra": torch.zeros(4).to(dtype)})
    floats = make(tuned, tmp_path / "floats", lambda t: t | {"extra": torch.zeros(4)})
    words = "integer tensors" if dtype in (torch.int32, torch.bool) else r"dtypes that cannot be subtracted .*extra \("
    with pytest.raises(MismatchError, match=words):
        extract(str(first), str(second), tmp_path / "v.safetensors")
    with pytest.raises(MismatchError, match=r"floats on one side and not on the other: extra \(\w+ and F32\)"):
        extract(str(first), str(floats), tmp_path / "v.safetensors")
