"""Tensors that only one of base and fine-tune has: tied ones, buffers, other names, and what is said of the rest."""

from __future__ import annotations

import json

import oracle
import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from two_sides import BUFFERS, EMBED, HEAD, LEARNED, TRIL, A, E, N, make, run_hint, save
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.undo import undo
from taskarith.errors import MismatchError
from taskarith.inspection.verify import verify
from taskarith.vectors.extract import extract
from taskarith.vectors.low_rank import extract_low_rank


def put(**more):
    return lambda tensors: tensors | {name.replace("__", "."): t for name, t in more.items()}


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
