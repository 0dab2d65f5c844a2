"""Rows of new tokens that a chat model has are put below those of the model, or the edit is refused."""

from __future__ import annotations

import oracle
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner
from vocabularies import ROWS, chat_model, resized, vocabulary_rows

from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.errors import MismatchError
from taskarith.inspection.verify import verify
from taskarith.vectors.extract import extract


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
