"""Fine-tunes with an enlarged or reduced vocabulary: refused with the way out, or edited in the rows that all have."""

from __future__ import annotations

import json

import oracle
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.verify import verify
from taskarith.errors import MismatchError, UsageError
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


@pytest.mark.parametrize("chunk", [100, 1 << 18])
def test_rows_end_within_chunks(tmp_path, monkeypatch, phi, chunk):
    from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
    from taskarith.checkpoints.publish import publish
    from taskarith.edit.operands import open_operands, parse_operands
    from taskarith.edit.plan import plan_edit
    from taskarith.edit.run import run_plan

    tuned = resized(tmp_path / "tuned", phi, ROWS - 7)
    base = open_checkpoint(phi)
    plan = plan_edit(base, open_operands(parse_operands([f"{tuned}@@{phi}"], []), base, shared_vocabulary=True), 0.3)
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
    assert "taskarith apply --vocab intersection" in caught.value.hint
    with pytest.raises(UsageError, match="unknown vocab 'union'"):
        apply(str(phi), add=[f"{tuned}@@{phi}"], vocab="union", output_dir=tmp_path / "out")


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
