"""What chat vectors need beside weights: the template that the output gets, and notes of what it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import yaml
from transformers import AutoTokenizer
from typer.testing import CliRunner

from taskarith import apply
from taskarith.cli.main import app
from taskarith.edit.mergekit import translate
from taskarith.errors import UsageError

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A base without a template, and a chat model with one and with one more token."""
    folder = tmp_path_factory.mktemp("chat")
    base = tiny.save_model(folder / "base")
    tiny.save_model(folder / "chat", nudge_of=base)
    for path in (base / "chat_template.jinja", folder / "chat/chat_template.jinja"):
        path.unlink(missing_ok=True)
    (folder / "chat/chat_template.jinja").write_text(PLAIN, encoding="utf-8")
    tokenizer = json.loads((folder / "chat/tokenizer.json").read_text())
    tokenizer["added_tokens"].append({"id": 900, "content": "<|im_start|>", "special": True})
    (folder / "chat/tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def template_of(folder: Path) -> str | None:
    return AutoTokenizer.from_pretrained(folder).chat_template


def add(models: Path) -> list[str]:
    return [f"{models / 'chat'}@@{models / 'base'}"]


def test_what_a_chat_model_has_and_the_output_lacks_is_noted(models, tmp_path):
    result = apply(str(models / "base"), add=add(models), output_dir=tmp_path / "out")
    template, tokens = (next(one for one in result.remarks if word in one) for word in ("template", "tokens"))
    assert f"to take it: --chat-template {models / 'chat'}" in template
    assert "1 tokens that the tokenizer of" in tokens
    assert tokens.endswith(": <|im_start|>; --vocab union takes them, with their rows")
    assert template_of(tmp_path / "out") is None
    taken = apply(str(models / "base"), negate=add(models), output_dir=tmp_path / "negated")
    assert not [one for one in taken.remarks if "template" in one or "tokens" in one]


@pytest.mark.parametrize("form", ["folder", "file", "text"])
def test_the_output_gets_the_template_that_is_named(models, tmp_path, form):
    (tmp_path / "t.jinja").write_text(PLAIN, encoding="utf-8")
    source = {"folder": str(models / "chat"), "file": str(tmp_path / "t.jinja"), "text": PLAIN}[form]
    out = tmp_path / "out"
    result = apply(str(models / "base"), add=add(models), output_dir=out, chat_template=source)
    assert template_of(out) == PLAIN
    assert not [one for one in result.remarks if "template" in one]
    assert json.loads((out / "taskarith.json").read_text())["chat_template"] == PLAIN
    again = ["apply", "--config", str(out / "taskarith.json"), "-o", str(tmp_path / "again")]
    assert CliRunner().invoke(app, again).exit_code == 0
    assert template_of(tmp_path / "again") == PLAIN


@pytest.mark.parametrize("kept", ["string", "list"])
def test_a_template_in_the_configuration_of_the_tokenizer(models, tmp_path, kept):
    for name in ("old", "new"):
        tiny.save_model(tmp_path / name)
        (tmp_path / name / "chat_template.jinja").unlink(missing_ok=True)
        path = tmp_path / name / "tokenizer_config.json"
        text = PLAIN if name == "new" else "{{ messages }}"
        value = (
            text if kept == "string" else [{"name": "default", "template": text}, {"name": "tool_use", "template": ""}]
        )
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": value}))
    vector = [f"{models / 'chat'}@@{models / 'base'}"]
    apply(str(tmp_path / "old"), add=vector, output_dir=tmp_path / "out", chat_template=str(tmp_path / "new"))
    assert template_of(tmp_path / "out") == PLAIN


def test_wrong_calls(models, tmp_path):
    def call(**options):
        apply(str(models / "base"), add=add(models), output_dir=tmp_path / "out", **options)

    with pytest.raises(UsageError, match="does not have a chat template"):
        call(chat_template=str(models / "base"))
    with pytest.raises(UsageError, match="cannot be undone"):
        call(chat_template=PLAIN, keep_undo=True)
    assert not (tmp_path / "out").exists()


def test_mergekit_takes_the_template_that_most_models_have(models, tmp_path):
    config = {
        "merge_method": "task_arithmetic",
        "base_model": str(models / "base"),
        "models": [{"model": str(models / "chat"), "parameters": {"weight": 1}}],
        "chat_template": "auto",
    }
    assert translate(config).options["chat_template"] == str(models / "chat")
    assert translate(config | {"chat_template": PLAIN}).options["chat_template"] == PLAIN
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(config))
    call = ["apply", "--config", str(tmp_path / "merge.yaml"), "-o", str(tmp_path / "out")]
    assert CliRunner().invoke(app, call).exit_code == 0
    assert template_of(tmp_path / "out") == PLAIN
    plain = tiny.save_model(tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match="none of the models has one"):
        translate(config | {"models": [{"model": str(plain), "parameters": {"weight": 1}}]})
