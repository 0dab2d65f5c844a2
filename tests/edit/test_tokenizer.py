"""The tokenizer of an output: that of the model, or of another one whose tokens have rows and mean the same."""

from __future__ import annotations

import json
import shutil

import pytest
from vocabularies import ROWS, chat_model

from taskarith.edit.apply import apply
from taskarith.errors import CheckpointError, TaskarithError
from taskarith.vectors.extract import extract


def test_new_rows_without_a_tokenizer_are_told(tmp_path, phi):
    chat, vector = chat_model(tmp_path / "chat", phi, ROWS + 5), tmp_path / "v.safetensors"
    extract(str(phi), str(chat), vector, vocab="union")
    result = apply(str(phi), add=[str(vector)], vocab="union", output_dir=tmp_path / "out")
    assert any("the tokenizer stays that of" in remark and "--tokenizer FROM" in remark for remark in result.remarks)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"add": ["{chat}@@{base}", "{other}@@{base}"]}, "all have rows of new tokens"),
        ({"add": ["{chat}@@{base}"], "tokenizer": "{strange}"}, "are others in the tokenizer"),
        ({"add": ["{chat}@@{base}"], "vocab": "intersection", "tokenizer": "{long}"}, "has tokens up to 4"),
        ({"add": ["{chat}@@{base}"], "tokenizer": "{bare}"}, "does not have a tokenizer"),
        ({"add": ["{chat}@@{base}"], "jobs": 2}, "are added by one process"),
        ({"add": ["{chat}@@{base}"], "keep_undo": True}, "cannot be undone"),
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


@pytest.mark.parametrize("number", ["first", -1, 1.5, None])
def test_a_tokenizer_that_does_not_number_its_tokens_is_refused(tmp_path, phi, number):
    chat = chat_model(tmp_path / "chat", phi, ROWS + 5)
    broken = shutil.copytree(chat, tmp_path / "broken")
    tokens = json.loads((broken / "tokenizer.json").read_text())
    tokens["added_tokens"].append({"content": "<odd>", "id": number})
    (broken / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(CheckpointError, match="does not number its tokens"):
        apply(str(phi), add=[f"{chat}@@{phi}"], vocab="union", tokenizer=str(broken), output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
