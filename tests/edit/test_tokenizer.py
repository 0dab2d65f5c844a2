"""The tokenizer of an output: that of the model, or of another one whose tokens have rows and mean the same."""

from __future__ import annotations

import shutil

import pytest
from vocabularies import ROWS, chat_model

from taskarith.edit.apply import apply
from taskarith.errors import TaskarithError
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
