"""Fine-tunes with an enlarged or reduced vocabulary: refused with the way out, or edited in the rows that all have."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import oracle
import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.errors import MismatchError, TaskarithError, UsageError, VectorError
from taskarith.inspection.verify import verify
from taskarith.vectors.extract import extract

ROWS = tiny.VOCABULARY


def resized(folder, source, rows, *, seed=3):
    """Write a model like ``source``, moved a little, with another size of vocabulary."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.resize_token_embeddings(rows, mean_resizing=False)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 1e-2)
    stored = next(iter(load_file(source / "model.safetensors").values())).dtype
    model.to(stored).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def expected(base, tuned, coefficients, dtype):
    """Edit the rows that base and fine-tune have; the rest of the base stays."""
    found = {}
    for name, values in base.items():
        deltas = []
        for one in tuned:
            delta = torch.zeros(values.shape, dtype=torch.float64)
            rows = min(len(values), len(one[name]))
            delta[:rows] = one[name][:rows].double() - values[:rows].double()
            deltas.append(delta)
        found[name] = oracle.edit(values, deltas, coefficients, dtype or values.dtype)
    return found


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("rows", [ROWS + 12, ROWS - 7])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_shared_rows_are_edited_and_the_others_stay(tmp_path, kind, rows, dtype):
    base = tiny.save_model(tmp_path / "base", kind, max_shard_size="30KB")
    whole = tiny.save_model(tmp_path / "whole", kind, nudge_of=base, seed=1)
    tiny.save_model(tmp_path / "single", kind, nudge_of=base, seed=2)
    tuned = resized(tmp_path / "tuned", tmp_path / "single", rows)
    result = apply(
        str(base),
        add=[f"{tuned}@@{base}:0.6"],
        negate=[f"{whole}:0.25"],
        dtype=dtype,
        vocab="intersection",
        output_dir=tmp_path / "out",
    )
    wide = getattr(torch, dtype) if dtype else None
    right = expected(oracle.load(base), [oracle.load(tuned), oracle.load(whole)], [0.6, -0.25], wide)
    assert oracle.differing(oracle.load(tmp_path / "out"), right) == []
    assert len(result.remarks) == 1
    embeddings = [name for name in right if len(right[name]) == ROWS]
    assert result.remarks[0].startswith(f"{min(rows, ROWS)} rows of ")
    assert f" are edited; {abs(rows - ROWS)} more that " in result.remarks[0]
    assert ("are left as they are" if rows < ROWS else "are not used") in result.remarks[0]
    record = json.loads((tmp_path / "out/taskarith.json").read_text())
    assert record["vocab"] == "intersection"
    limited = {name: entry["rows"] for name, entry in record["tensors"].items() if "rows" in entry}
    assert limited == (dict.fromkeys(embeddings, rows) if rows < ROWS else {})
    found = verify(tmp_path / "out", seed=7)
    assert found.is_sound
    assert found.unsampled == ""
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_coefficient_1_gives_the_finetune_in_the_shared_rows_and_the_base_elsewhere(tmp_path, phi):
    tuned = resized(tmp_path / "tuned", phi, ROWS - 100)
    apply(str(phi), add=[f"{tuned}@@{phi}"], vocab="intersection", output_dir=tmp_path / "out")
    out, base, fine = oracle.load(tmp_path / "out"), oracle.load(phi), oracle.load(tuned)
    for name, values in out.items():
        rows = len(fine[name])
        assert values[:rows].equal(fine[name])
        assert values[rows:].equal(base[name][rows:])


def chat_model(folder, source, rows):
    """Write a fine-tune with tokens of its own, and a chat template."""
    resized(folder, source, rows)
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|new {n}|>" for n in range(rows - ROWS)]})
    tokenizer.chat_template = "{% for m in messages %}<|new 0|>{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


def vocabulary_rows(tensors, rows):
    return [name for name, values in tensors.items() if len(values) == rows]


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("form", ["pair", "file"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_rows_of_new_tokens_are_those_of_the_chat_model_and_its_tokenizer_comes_along(tmp_path, kind, form, dtype):
    base = tiny.save_model(tmp_path / "base", kind, max_shard_size="30KB")
    model = tiny.save_model(tmp_path / "model", kind, nudge_of=base, seed=4)
    chat, new = (
        chat_model(tmp_path / "chat", tiny.save_model(tmp_path / "s", kind, nudge_of=base, seed=2), ROWS + 12),
        12,
    )
    if form == "file":
        vector = str(tmp_path / "chat.safetensors")
        extract(str(base), str(chat), vector, dtype="float64", vocab="union")
        assert verify(vector).is_sound
        options = {"tokenizer": str(chat)}
    else:
        vector, options = f"{chat}@@{base}", {}
    result = apply(
        str(model), add=[f"{vector}:0.6"], dtype=dtype, vocab="union", output_dir=tmp_path / "out", **options
    )
    assert any(f"{new} rows of new tokens in " in remark for remark in result.remarks)
    assert not any("chat template" in remark or "--vocab" in remark for remark in result.remarks)
    out, before, fine, origin = (oracle.load(path) for path in (tmp_path / "out", model, chat, base))
    wide = getattr(torch, dtype) if dtype else None
    for name, values in out.items():
        shared = len(before[name])
        delta = fine[name][:shared].double() - origin[name].double()
        assert values[:shared].equal(oracle.edit(before[name], [delta], [0.6], wide or before[name].dtype))
        stored = fine[name][shared:].to(before[name].dtype)
        assert values[shared:].equal(stored.to(values.dtype))
    assert vocabulary_rows(out, ROWS + new)
    assert not vocabulary_rows(out, ROWS)
    found = verify(tmp_path / "out", seed=7)
    assert found.is_sound
    assert found.unsampled == ""
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").get_input_embeddings().weight.shape[0] == ROWS + new
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer("<|new 3|>", add_special_tokens=False).input_ids) == 1
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(chat).chat_template
    arguments = ["apply", "--config", tmp_path / "out/taskarith.json", "-o", tmp_path / "again"]
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    assert oracle.differing(oracle.load(tmp_path / "again"), out) == []


def test_a_vector_of_shared_rows_is_sound_and_fits_the_base(tmp_path, phi):
    tuned = resized(tmp_path / "tuned", phi, ROWS + 12)
    for rows, folder in ((ROWS + 12, tuned), (ROWS - 9, resized(tmp_path / "short", phi, ROWS - 9))):
        vector = tmp_path / f"{rows}.safetensors"
        extract(str(phi), str(folder), vector, vocab="intersection")
        assert verify(vector).is_sound
        apply(str(phi), add=[str(vector)], vocab="intersection", output_dir=tmp_path / f"out {rows}")
        out, fine = oracle.load(tmp_path / f"out {rows}"), oracle.load(folder)
        for name, values in out.items():
            shared = min(len(values), len(fine[name]))
            assert values[:shared].equal(fine[name][:shared])
    apply(str(phi), add=[str(tmp_path / f"{ROWS + 12}.safetensors")], output_dir=tmp_path / "whole")


def test_rows_of_new_tokens_are_never_left_out_silently(tmp_path, phi):
    chat, vector = chat_model(tmp_path / "chat", phi, ROWS + 5), tmp_path / "chat.safetensors"
    extract(str(phi), str(chat), vector, vocab="union")
    for run in (
        lambda: apply(str(phi), add=[str(vector)], output_dir=tmp_path / "out"),
        lambda: combine(str(vector), tmp_path / "mixed.safetensors"),
    ):
        with pytest.raises(MismatchError, match="rows of new tokens, which its base does not have") as caught:
            run()
        assert "--vocab union gives them to the model" in caught.value.hint
    result = apply(str(phi), negate=[str(vector)], vocab="union", output_dir=tmp_path / "less")
    assert not vocabulary_rows(oracle.load(tmp_path / "less"), ROWS + 5)
    assert not any("rows of new tokens" in remark for remark in result.remarks)


@pytest.mark.parametrize("rows", [ROWS + 2, ROWS + 30, ROWS - 9])
def test_new_rows_are_not_put_below_a_model_that_has_other_rows_than_their_base(tmp_path, phi, rows):
    chat, model = chat_model(tmp_path / "chat", phi, ROWS + 12), resized(tmp_path / "model", phi, rows, seed=5)
    with pytest.raises(MismatchError, match="nothing says which rows beyond these are the same tokens"):
        apply(str(model), add=[f"{chat}@@{phi}"], vocab="union", output_dir=tmp_path / "out")


def test_new_rows_without_a_tokenizer_are_told(tmp_path, phi):
    chat, vector = chat_model(tmp_path / "chat", phi, ROWS + 5), tmp_path / "v.safetensors"
    extract(str(phi), str(chat), vector, vocab="union")
    result = apply(str(phi), add=[str(vector)], vocab="union", output_dir=tmp_path / "out")
    assert any("the tokenizer stays that of" in remark and "--tokenizer FROM" in remark for remark in result.remarks)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"add": ["{chat}@@{base}", "{other}@@{base}"]}, "all have rows of new tokens"),
        ({"add": ["{chat}@@{base}"], "tokenizer": "{strange}"}, "mean others in the tokenizer"),
        ({"add": ["{chat}@@{base}"], "vocab": "intersection", "tokenizer": "{long}"}, "has tokens up to 4"),
        ({"add": ["{chat}@@{base}"], "tokenizer": "{bare}"}, "does not have a tokenizer"),
        ({"add": ["{chat}@@{base}"], "jobs": 2}, "are added by one process"),
        ({"add": ["{chat}@@{base}"], "keep_undo": True}, "no way back is kept"),
    ],
)
def test_new_tokens_that_do_not_fit_are_refused(tmp_path, phi, options, reason):
    places = {"base": phi, "chat": chat_model(tmp_path / "chat", phi, ROWS + 5)}
    places["other"] = chat_model(tmp_path / "other", phi, ROWS + 9)
    places["long"] = chat_model(tmp_path / "long", phi, ROWS + 90)
    places["strange"], places["bare"] = tmp_path / "strange", tmp_path / "bare"
    shutil.copytree(places["chat"], places["strange"])
    path = places["strange"] / "tokenizer.json"
    path.write_text(path.read_text().replace('"a":', '"snowman":', 1))
    shutil.copytree(phi, places["bare"], ignore=shutil.ignore_patterns("*token*", "*.jinja"))
    filled = {key: value.format(**places) if isinstance(value, str) else value for key, value in options.items()}
    filled["add"] = [one.format(**places) for one in options["add"]]
    with pytest.raises(TaskarithError, match=reason):
        apply(str(phi), output_dir=tmp_path / "out", **{"vocab": "union"} | filled)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "options", "reason"),
    [
        (ROWS - 9, {"vocab": "union"}, "has fewer rows than"),
        (ROWS + 9, {"vocab": "union", "exact": True}, "stored as they are"),
        (ROWS + 9, {"vocab": "all"}, "unknown vocab 'all'"),
        (ROWS + 9, {}, "differ in shape"),
    ],
)
def test_vectors_of_other_vocabularies_that_cannot_be(tmp_path, phi, rows, options, reason):
    tuned = resized(tmp_path / "tuned", phi, rows)
    with pytest.raises(TaskarithError, match=reason):
        extract(str(phi), str(tuned), tmp_path / "v.safetensors", **options)
    assert not (tmp_path / "v.safetensors").exists()


@pytest.mark.parametrize("table", ['{"nowhere": 3}', '{"model.embed_tokens.weight": -1}', "[]", "{"])
def test_a_broken_count_of_rows_is_refused(tmp_path, phi, table):
    vector = tmp_path / "v.safetensors"
    extract(str(phi), str(resized(tmp_path / "tuned", phi, ROWS + 3)), vector, vocab="union")
    with safe_open(vector, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(vector), vector, metadata | {"base_rows": table})
    with pytest.raises(VectorError, match="broken header: 'base_rows'"):
        apply(str(phi), add=[str(vector)], vocab="union", output_dir=tmp_path / "out")


@pytest.mark.parametrize("chunk", [100, 1 << 18])
def test_rows_end_within_chunks(tmp_path, monkeypatch, phi, chunk):
    from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
    from taskarith.checkpoints.publish import publish
    from taskarith.edit.edit import Edit
    from taskarith.edit.operands import open_edit
    from taskarith.edit.plan import plan_edit
    from taskarith.edit.run import run_plan

    tuned = resized(tmp_path / "tuned", phi, ROWS - 7)
    base = open_checkpoint(phi)
    edit = replace(Edit.from_options([f"{tuned}@@{phi}"]), alpha=0.3, vocab="intersection")
    plan = plan_edit(base, open_edit(edit, base), edit)
    for name, device in (("cpu", "cpu"), ("torch", "torch")):
        with publish(tmp_path / name, is_folder=True) as place:
            run_plan(plan, place, chunk=chunk, device=device)
    right = expected(oracle.load(phi), [oracle.load(tuned)], [0.3], None)
    assert oracle.differing(oracle.load(tmp_path / "cpu"), right) == []
    assert fingerprint_model(tmp_path / "cpu") == fingerprint_model(tmp_path / "torch")


@pytest.mark.parametrize("rows", [ROWS + 12, ROWS - 7])
def test_a_dense_vector_on_a_resized_model(tmp_path, phi, phi_tuned, rows):
    extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors")
    model = resized(tmp_path / "model", phi, rows)
    with pytest.raises(MismatchError, match=rf"\[{ROWS}, 32\] against \[{rows}, 32\]") as caught:
        apply(str(model), negate=[str(tmp_path / "v.safetensors")], output_dir=tmp_path / "out")
    assert "--vocab intersection" in caught.value.hint
    options = {"vocab": "intersection", "output_dir": tmp_path / "out"}
    result = apply(str(model), negate=[str(tmp_path / "v.safetensors")], **options)
    base, tuned, before = oracle.load(phi), oracle.load(phi_tuned), oracle.load(model)
    right = {}
    for name, values in before.items():
        shared = min(len(values), len(base[name]))
        delta = torch.zeros(values.shape, dtype=torch.float64)
        delta[:shared] = (tuned[name][:shared].double() - base[name][:shared].double()).float().double()
        right[name] = oracle.edit(values, [delta], [-1.0], values.dtype)
    assert oracle.differing(oracle.load(tmp_path / "out"), right) == []
    assert verify(tmp_path / "out").is_sound
    assert any(f"{min(rows, ROWS)} rows of " in remark for remark in result.remarks)


def test_it_is_refused_unasked_with_both_sizes_and_the_way_out(tmp_path, phi):
    tuned = resized(tmp_path / "tuned", phi, ROWS + 12)
    with pytest.raises(MismatchError, match=rf"lm_head\.weight \[{ROWS}, 32\] against \[{ROWS + 12}, 32\]") as caught:
        apply(str(phi), add=[f"{tuned}@@{phi}"], output_dir=tmp_path / "out")
    assert "--vocab intersection" in caught.value.hint
    with pytest.raises(MismatchError, match=r"3 tensors of .* differ in shape") as caught:
        extract(str(phi), str(tuned), tmp_path / "v.safetensors")
    assert "--vocab intersection, an option of apply and extract" in caught.value.hint
    with pytest.raises(UsageError, match="unknown vocab 'both'"):
        apply(str(phi), add=[f"{tuned}@@{phi}"], vocab="both", output_dir=tmp_path / "out")


def test_other_shapes_are_refused_with_the_option_too(tmp_path, phi, phi_tuned):
    tensors = load_file(phi_tuned / "model.safetensors")
    for name, change in (
        ("model.layers.0.mlp.fc1.weight", lambda values: values[:-1]),  # no vocabulary
        ("lm_head.weight", lambda values: values[:, :-1]),  # other columns
        ("lm_head.bias", lambda values: values[:-1]),  # not what its configuration says
    ):
        folder = tmp_path / name
        folder.mkdir()
        save_file(tensors | {name: change(tensors[name]).contiguous()}, folder / "model.safetensors")
        (folder / "config.json").write_text((phi / "config.json").read_text())
        with pytest.raises(MismatchError, match=r"1 tensors of .* differ in shape") as caught:
            apply(str(phi), add=[f"{folder}@@{phi}"], vocab="intersection", output_dir=tmp_path / "out")
        assert caught.value.hint == "This is another base."


def test_the_command_repeats_it_from_the_record(tmp_path, phi):
    tuned = resized(tmp_path / "tuned", phi, ROWS - 7)
    arguments = ["apply", phi, "--add", f"{tuned}@@{phi}", "--vocab", "intersection", "--scale", "embed_tokens=0.5"]
    done = CliRunner().invoke(app, [str(one) for one in (*arguments, "-o", tmp_path / "out", "--keep-undo")])
    assert done.exit_code == 0, done.output
    assert "7 more that only the model has are left as they are" in " ".join(done.output.split())
    again = ["apply", "--config", tmp_path / "out/taskarith.json", "-o", tmp_path / "again"]
    done = CliRunner().invoke(app, [str(one) for one in again])
    assert done.exit_code == 0, done.output
    assert oracle.differing(oracle.load(tmp_path / "again"), load_file(tmp_path / "out/model.safetensors")) == []
    back = CliRunner().invoke(app, ["undo", str(tmp_path / "out"), "-o", str(tmp_path / "back")])
    assert back.exit_code == 0, back.output
    assert oracle.differing(oracle.load(tmp_path / "back"), oracle.load(phi)) == []
