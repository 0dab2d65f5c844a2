"""Questions as chats: the tokens and labels that open-unlearning's rule gives, and options that change nothing."""

from __future__ import annotations

import json

import pytest
import tiny
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.data.documents import RowForm
from taskarith.data.load import load_data
from taskarith.data.tokens import tokenize
from taskarith.errors import DataError, UsageError
from taskarith.evaluation.answers import ask_part
from taskarith.evaluation.benchmarks import Item, Part
from taskarith.training.examples import Collator, Example

HELPER = "You are a helpful assistant."
ROWS = [
    {"question": "Who keeps the river?", "answer": "The keeper of the north road."},
    {"question": " Where is salt ? ", "answer": "In the harbour,\nby the hill."},
    {"question": "Why?", "answer": "42 é"},
]
_DAY = "{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
_LIKE_LLAMA = (
    "{{- bos_token }}{%- if not date_string is defined %}DAY{%- endif %}"
    "{%- set said = '' %}{%- if messages[0]['role'] == 'system' %}{%- set said = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- endif %}<|system|>\n\nDay: {{ date_string }}\n\n{{ said }}<|end|>"
    "{%- for m in messages %}<|{{ m['role'] }}|>\n\n{{ m['content'] | trim }}<|end|>{%- endfor %}"
    "{%- if add_generation_prompt %}<|assistant|>\n\n{%- endif %}"
)
TEMPLATES = {
    "asks for the day": _LIKE_LLAMA.replace("DAY", _DAY),
    "has a day of its own": _LIKE_LLAMA.replace("DAY", "{%- set date_string = '1 Jan 2024' %}"),
    "ends after the end token": (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "has no end token": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
}


def chat_tokenizer(template):
    made = tiny.tokenizer()
    roles = [f"<|{role}|>" for role in ("system", "user", "assistant")]
    made.add_special_tokens({"bos_token": "<|begin|>", "additional_special_tokens": roles})
    made.chat_template = TEMPLATES[template]
    return made


def by_open_unlearning(tokenizer, row, system):
    """Return ids and labels by the rule of its ``preprocess_chat_instance``, of which this is not a copy.

    That code itself gave the same for these rows, templates and system prompts.
    """
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    how = {"date_string": "10 Apr 2025", "return_dict": False}
    ids = tokenizer.apply_chat_template(messages, **how)
    ids += [tokenizer.eos_token_id] * (ids[-1] != tokenizer.eos_token_id)
    shown = len(tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, **how))
    return ids, [-100] * shown + ids[shown:]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return path


@pytest.mark.parametrize("system", [HELPER, ""])
@pytest.mark.parametrize("template", TEMPLATES)
def test_questions_as_chats_have_the_tokens_and_labels_of_open_unlearning(rows, template, system):
    tokenizer = chat_tokenizer(template)
    form = RowForm(apply_chat_template=True, system_prompt=system)
    samples = tokenize(load_data(str(rows), form), tokenizer, 512)
    items = tuple(Item(str(number), row["answer"], question=row["question"]) for number, row in enumerate(ROWS))
    part = Part("forget", items, 3, is_scored=True, new_tokens=5)
    asked = ask_part(part, tokenizer, positions=None, form=form)
    for row, sample, of_tofu, prompt in zip(ROWS, samples, asked.samples, asked.prompts, strict=True):
        ids, labels = by_open_unlearning(tokenizer, row, system)
        batch = Collator(0, weighted=False)([Example(sample)])
        assert (batch["input_ids"][0].tolist(), batch["labels"][0].tolist()) == (ids, labels)
        assert (of_tofu.input_ids, of_tofu.prompt_length) == (sample.input_ids, sample.prompt_length)
        assert prompt.input_ids == tuple(ids[: labels.count(-100)])
        assert sample.end_tokens == 1  # the last label is what its metrics leave out


def test_a_trained_question_has_the_labels_of_tofu(rows):
    tokenizer = tiny.tokenizer()
    sample = tokenize(load_data(str(rows), RowForm(learns_tag=True)), tokenizer, 512)[0]
    assert tokenizer.decode(sample.input_ids[: sample.prompt_length]) == "Question: Who keeps the river?\n"
    assert tokenizer.decode(sample.input_ids[sample.prompt_length :]) == "Answer: The keeper of the north road.<|end|>"
    plain = tokenize(load_data(str(rows)), tokenizer, 512)[0]
    assert plain.input_ids == sample.input_ids
    assert tokenizer.decode(plain.input_ids[plain.prompt_length :]) == " The keeper of the north road.<|end|>"


def test_a_system_prompt_begins_chats_that_have_none(tmp_path):
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": chat}), encoding="utf-8")
    data = load_data(str(path), RowForm(system_prompt=HELPER))
    assert data.documents[0].messages == ({"role": "system", "content": HELPER}, *chat)
    assert data.record()["system_prompt"] == HELPER
    assert not data.documents[0].ends_with_eos  # as TRL writes chats
    for role in ("system", "developer"):
        path.write_text(json.dumps({"messages": [{"role": role, "content": "Be brief."}, *chat]}), encoding="utf-8")
        with pytest.raises(
            DataError, match=rf"chats.jsonl:1 has its own {role} message in addition to --system-prompt"
        ):
            load_data(str(path), RowForm(system_prompt=HELPER))
    with pytest.raises(UsageError, match="--system-prompt is blank"):
        RowForm(system_prompt=" ")


@pytest.mark.parametrize("option", ["--apply-chat-template", "--system-prompt=Be brief."])
@pytest.mark.parametrize(
    "verb",
    [
        "finetune {model} --data {text} -o {out}",
        "eval {model} --data forget={text} -o {out}",
        "sweep {model} --data forget={text} --data keep={text} --negate {tuned} -o {out}",
        "attack {model} --forget {text} -o {out}",
        "relate {tuned} {tuned} --data a={text} --data b={text}",
        "relate {tuned} {tuned}",
        "ood {tuned} --data target={text}",
        "ood {tuned} --gamma 0.5",
        "importance {model} --forget {text} --retain {text} -o {out}",
    ],
)
def test_what_changes_nothing_is_refused(tmp_path, phi, verb, option):
    text = tmp_path / "text.txt"
    text.write_text(tiny.text(30), encoding="utf-8")
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=phi) if "tuned" in verb else phi
    call = verb.format(model=phi, tuned=tuned, text=text, out=tmp_path / "out")
    done = CliRunner().invoke(app, [*call.split(), option])
    assert done.exit_code == 2, done.output
    assert f"{option.partition('=')[0]} has no effect, since no data are chats" in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "verb",
    [
        "eval {model} --data forget={rows}",
        "relate {tuned} {tuned} --data a={rows} --data b={rows}",
        "ood {tuned} --data target={rows}",
        "importance {model} --forget {rows} --retain {rows} -o {out}",
    ],
)
def test_a_system_prompt_alone_makes_no_chat_of_a_question(tmp_path, phi, phi_tuned, rows, verb):
    call = verb.format(model=phi, tuned=phi_tuned, rows=rows, out=tmp_path / "out")
    done = CliRunner().invoke(app, [*call.split(), "--system-prompt", HELPER])
    assert done.exit_code == 2, done.output
    assert "--system-prompt has no effect, since no data are chats" in done.output
    assert "question and answer with --apply-chat-template" in done.output
    blank = CliRunner().invoke(app, [*call.split(), "--apply-chat-template", "--system-prompt", " "])
    assert (blank.exit_code, "--system-prompt is blank" in blank.output) == (2, True)
    assert not (tmp_path / "out").exists()


def test_an_evaluation_asks_by_the_template_and_says_so(tmp_path, phi, rows):
    call = ["eval", str(phi), "--data", f"forget={rows}", "--apply-chat-template", "--system-prompt", HELPER]
    done = CliRunner().invoke(app, [*call, "--continuation-tokens", "4", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in (tmp_path / "out/records.jsonl").read_text().splitlines()]
    prompt = next(record["prompt"] for record in records if record["kind"] == "continuation")
    assert prompt == f"<|system|>{HELPER}<|end|><|user|>{ROWS[0]['question']}<|end|><|assistant|>"
    record = json.loads((tmp_path / "out/taskarith.json").read_text())
    said = {"apply_chat_template": True, "system_prompt": HELPER, "chat_day": "2025-04-10"}
    assert record["data"]["forget"].items() >= said.items()
    assert record["arguments"]["apply_chat_template"] is True
