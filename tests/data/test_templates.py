"""Chats go through every kind of chat template whole, or are refused; what is learned is the answer."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import tiny

from taskarith.data.load import load_data
from taskarith.data.templates import render_chat
from taskarith.data.tokens import tokenize
from taskarith.errors import DataError
from taskarith.evaluation.prompts import make_prompts

ASK = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


def turns(content: str) -> str:
    """Return a template that writes the content of each message in one way."""
    return "{% for m in messages %}<|{{ m.role }}|>" + content + "<|end|>{% endfor %}" + ASK


STRINGS = turns("{{ m.content }}")
TEMPLATES = {
    "strings": STRINGS,
    "joined": turns("{{ '' + m.content }}"),
    "stripped": turns("{{ m.content | trim }}"),
    "parts": turns("{% for p in m.content %}{{ p['text'] }}{% endfor %}"),
    "typed parts": turns("{% for p in m.content if p.type == 'text' %}{{ p.text | trim }}{% endfor %}"),
    "both": turns(
        "{% if m.content is string %}{{ m.content }}"
        "{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}"
    ),
    "generation": turns("{% generation %}{{ m.content }}{% endgeneration %}"),
    "json": turns("{{ m.content | tojson }}"),
    "thinking": "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
    "{% set a = m.content.split('</think>') %}{% set thought = a[0] if a | length > 1 else '' %}"
    "{% if loop.last %}<think>\n{{ thought.replace('<think>', '').strip() }}\n</think>\n\n{% endif %}"
    "{{ a[-1].strip() }}{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}",
    "thoughtless": turns("{{ m.content.split('</think>')[-1] }}"),
    "no system": "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    + ASK,
    "late system": "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>"
    "{% if loop.last and m.role == 'user' %}{{ messages[0].content }}{% endif %}{{ m.content }}<|end|>{% endfor %}"
    + ASK,
    "answers only": "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{{ m.content }}{% endif %}"
    "<|end|>{% endfor %}" + ASK,
    "questions only": turns("{% if m.role == 'user' %}{{ m.content }}{% endif %}"),
    "beheaded": turns("{{ m.content if m.role == 'user' else m.content[3:] }}"),
    "begins differently": "{% if add_generation_prompt %}Answer!{% endif %}" + STRINGS,
    "last thoughts": "{% set last = (messages | selectattr('role', 'equalto', 'assistant') | list)[-1] %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content if m == last else m.content.split('</think>')[-1] }}<|end|>"
    "{% endfor %}" + ASK,
    "alternating": "{% if messages[0].role != 'user' %}{{ raise_exception('begin with a user') }}{% endif %}" + STRINGS,
    "broken": "{% for m in messages %}",
}


def user(text):
    return {"role": "user", "content": text}


def answer(text, **more):
    return {"role": "assistant", "content": text, **more}


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


PLAIN = [user("Who keeps\nit?"), answer("The keeper,\n\n of old. ")]
IN_PARTS = [user(parts("Who keeps\nit?")), answer(parts("The keeper,", "\n\n of old. "))]
SYSTEM = [{"role": "system", "content": "Be brief."}, *PLAIN]
WORD = [user("user"), answer("end")]  # both stand in the template itself
ECHO = [user("salt, salt"), answer("salt, salt")]
THOUGHT = [user("Who?"), answer("<think>\nold, so\n</think>\n\nThe keeper.")]


@pytest.fixture
def write(tmp_path):
    """Return what writes rows to a file and makes a data set and a tokenizer with a template of it."""

    def made(template, *rows):
        (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        tokenizer = tiny.tokenizer()
        tokenizer.chat_template = TEMPLATES.get(template, template)
        return load_data(str(tmp_path / "rows.jsonl")), tokenizer

    return made


@pytest.mark.parametrize("chat", [PLAIN, IN_PARTS, WORD, ECHO], ids=["plain", "parts", "word", "echo"])
@pytest.mark.parametrize("template", ["strings", "joined", "stripped", "parts", "typed parts", "both", "generation"])
def test_texts_and_parts_reach_every_template(write, template, chat):
    data, tokenizer = write(template, {"messages": chat})
    [sample] = tokenize(data, tokenizer, 256)
    learned = tokenizer.decode(list(sample.input_ids[sample.prompt_length :]))
    context = tokenizer.decode(list(sample.input_ids[: sample.prompt_length]))
    texts = [m["content"] if isinstance(m["content"], str) else "".join(p["text"] for p in m["content"]) for m in chat]
    assert "".join(context.split()) == "".join(f"<|user|>{texts[0]}<|end|><|assistant|>".split())
    assert "".join(learned.split()) == "".join(f"{texts[1]}<|end|>".split())


@pytest.mark.parametrize(
    ("template", "chat", "learned"),
    [
        ("json", PLAIN, '"The keeper,\\n\\n of old. "<|end|>'),
        ("json", [user("a"), answer('"né"')], r'"\"né\""<|end|>'),
        ("strings", THOUGHT, "<think>\nold, so\n</think>\n\nThe keeper.<|end|>"),
        ("thinking", THOUGHT, "old, so\n</think>\n\nThe keeper.<|end|>"),
        ("thinking", PLAIN, "\n</think>\n\nThe keeper,\n\n of old.<|end|>"),
        ("thinking", [*THOUGHT, *THOUGHT], "old, so\n</think>\n\nThe keeper.<|end|>"),  # the first without its thoughts
        ("thoughtless", THOUGHT, "\n\nThe keeper.<|end|>"),
        ("strings", SYSTEM, "The keeper,\n\n of old. <|end|>"),
        ("alternating", PLAIN, "The keeper,\n\n of old. <|end|>"),
    ],
)
def test_the_answer_is_learned_as_the_template_writes_it(write, template, chat, learned):
    data, tokenizer = write(template, {"messages": chat})
    rendering = render_chat(data.documents[0], tokenizer)
    assert rendering.learned == learned
    assert rendering.drops_reasoning == (template == "thoughtless")


@pytest.mark.parametrize(
    ("template", "chat", "message", "hint"),
    [
        ("no system", SYSTEM, r"leaves out the text of message 1 \(system\) of rows\.jsonl:2", "first user message"),
        ("late system", SYSTEM, r"leaves out the text of message 1 \(system\) of rows\.jsonl:2", "first user message"),
        ("answers only", PLAIN, r"leaves out the text of message 1 \(user\) of rows\.jsonl:2", "prompt and completion"),
        ("answers only", ECHO, r"leaves out the text of message 1 \(user\) of rows\.jsonl:2", "prompt and completion"),
        ("questions only", PLAIN, r"leaves out the answer, message 2 \(assistant\) of rows\.jsonl:2", "completion"),
        ("questions only", WORD, r"leaves out the answer, message 2 \(assistant\) of rows\.jsonl:2", "completion"),
        ("questions only", IN_PARTS, r"leaves out the answer, message 2 \(assistant\) of rows\.jsonl:2", "completion"),
        (
            "begins differently",
            PLAIN,
            r"message 1 \(user\) of rows\.jsonl:2 would be learned, too",
            "prompt and completion",
        ),
        (
            "last thoughts",
            [*THOUGHT, *PLAIN],
            r"message 2 \(assistant\) of rows\.jsonl:2 would be learned",
            "Remove reasoning",
        ),
        ("alternating", SYSTEM, r"refuses rows\.jsonl:2: begin with a user", "roles and the order that it supports."),
        ("alternating", [SYSTEM[0], *IN_PARTS], r"refuses rows\.jsonl:2: begin with a user", "roles and the order"),
        ("broken", PLAIN, r"refuses rows\.jsonl:2: .*endfor", "or correct the template."),
    ],
)
def test_what_a_template_leaves_out_is_refused(write, template, chat, message, hint):
    data, tokenizer = write(template, {"messages": PLAIN}, {"messages": chat})
    with pytest.raises(DataError, match=message) as raised:
        render_chat(data.documents[1], tokenizer)
    assert hint in raised.value.hint


# --- tools -----------------------------------------------------------------------------------------------------------

ARGUMENTS = {"place": 'the "north" pier', "hours": [3, 4.5], "deep": {"é": True}}
AS_JSON = json.dumps(ARGUMENTS, ensure_ascii=False)
TOOLS = [{"type": "function", "function": {"name": "tide_at", "parameters": {"type": "object", "properties": {}}}}]


def calls(arguments=ARGUMENTS, **more):
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": call(arguments)}], **more}


def call(arguments):
    return {"name": "tide_at", "arguments": arguments}


def with_calls(how: str) -> str:
    """Return a template that writes tools, and the calls of the assistant in one way."""
    calls = "{% for c in m.tool_calls or [] %}{% set f = c.function or c %}[{{ f.name }} " + how + "]{% endfor %}"
    return "{% if tools %}{{ tools | tojson }}{% endif %}" + turns("{{ m.content }}" + calls)


OBJECTS, TEXTS = with_calls("{{ f.arguments | tojson }}"), with_calls("{{ f.arguments }}")
PAIRS = with_calls("{% for k, v in f.arguments | items %}{{ k }}={{ v | tojson }};{% endfor %}")


@pytest.mark.parametrize("arguments", [ARGUMENTS, AS_JSON], ids=["object", "json"])
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": "I look."}])
@pytest.mark.parametrize(
    ("template", "written"),
    [
        (OBJECTS, f"[tide_at {AS_JSON}]"),
        (TEXTS, f"[tide_at {AS_JSON}]"),
        (TEXTS.replace("{{ f.arguments }}", "{{ '' + f.arguments }}"), f"[tide_at {AS_JSON}]"),
        (PAIRS, '[tide_at place="the \\"north\\" pier";hours=[3, 4.5];deep={"é": true};]'),
        (OBJECTS.replace("{{ m.content }}", "{{ m.content + '' }}"), f"[tide_at {AS_JSON}]"),
    ],
    ids=["objects", "texts", "joined", "pairs", "content joined"],
)
def test_calls_are_written_as_json_once(write, template, written, content, arguments):
    asked = [user("When?"), calls(arguments, **content)]
    told = [*asked, {"role": "tool", "content": "at six"}, answer("At six.")]
    data, tokenizer = write(template, {"messages": asked, "tools": TOOLS}, {"messages": told, "tools": TOOLS})
    first, second = (render_chat(document, tokenizer) for document in data.documents)
    assert first.learned == f"{content.get('content') or ''}{written}<|end|>"
    assert second.prompt == first.whole + "<|tool|>at six<|end|><|assistant|>"
    assert first.whole.startswith(json.dumps(TOOLS))


def test_what_a_tool_returns_may_be_written_as_json(write):
    template = OBJECTS.replace("{{ m.content }}", "{{ m.content | tojson if m.role == 'tool' else m.content }}")
    chats = [
        [user("When?"), calls(), {"role": "tool", "content": told}, answer("At six.")] for told in ("six", parts("six"))
    ]
    data, tokenizer = write(template, *({"messages": chat, "tools": TOOLS} for chat in chats))
    prompts = [render_chat(document, tokenizer).prompt for document in data.documents]
    assert prompts[0].endswith('<|tool|>"six"<|end|><|assistant|>')
    assert prompts[1].endswith(f"<|tool|>{json.dumps(parts('six'))}<|end|><|assistant|>")


def test_prompts_of_calls_are_compared_with_calls(write):
    row = {"messages": [user("When?"), calls({"place": "pier"})], "tools": TOOLS}
    data, tokenizer = write(OBJECTS, row)
    samples = tokenize(data, tokenizer, 256)
    [prompt] = make_prompts(data, samples, tokenizer, prompts=1, prompt_tokens=1, continuation_tokens=200)
    assert prompt.reference == '[tide_at {"place": "pier"}]'
    assert prompt.text == f"{json.dumps(TOOLS)}<|user|>When?<|end|><|assistant|>"


@pytest.mark.parametrize(
    ("template", "row", "message", "hint"),
    [
        (STRINGS, {"messages": PLAIN, "tools": TOOLS}, r"leaves out the tools of rows\.jsonl:1", "remove the column"),
        (STRINGS, {"messages": PLAIN, "documents": [{"text": "a"}]}, "leaves out the documents of", "system message"),
        (
            STRINGS,
            {"messages": [user("a"), calls()]},
            r"the tool call tide_at of message 2 \(assistant\) of",
            "content",
        ),
        (
            STRINGS,
            {"messages": [user("a"), calls(), {"role": "tool", "content": "b"}, answer("c")]},
            r"the tool call tide_at of message 2 \(assistant\) of rows\.jsonl:1",
            "write the call into the content",
        ),
        (
            with_calls(""),
            {"messages": [user("a"), calls()]},
            "leaves out the argument 'the \"north\" pier' of",
            "content",
        ),
        (
            with_calls("{{ f.arguments | string | tojson }}"),
            {"messages": [user("a"), calls({"place": "pier"})]},
            "writes the arguments of the tool call tide_at of .* as a quoted string or a Python object",
            "write the call into the content",
        ),
        (OBJECTS.replace("{{ m.content }}", ""), {"messages": [user("a"), answer("b")]}, "leaves out the text of", ""),
    ],
)
def test_tools_and_calls_that_would_be_lost_are_refused(write, template, row, message, hint):
    data, tokenizer = write(template, row)
    with pytest.raises(DataError, match=message) as raised:
        render_chat(data.documents[0], tokenizer)
    assert hint in raised.value.hint


# --- other columns ---------------------------------------------------------------------------------------------------

DATED = "{{ date or 'today' }}" + STRINGS


def test_settings_and_documents_reach_the_template(write):
    row = {"messages": PLAIN, "chat_template_kwargs": {"date": "1901"}, "documents": [{"text": "a log"}], "id": 7}
    data, tokenizer = write(DATED + "{% for d in documents or [] %}{{ d.text }}{% endfor %}", row)
    rendering = render_chat(data.documents[0], tokenizer)
    assert rendering.prompt.startswith("1901<|user|>")
    assert rendering.learned.endswith("<|end|>a log")


def test_columns_that_change_nothing_are_left_alone(write):
    more = {"id": 7, "source": "log", "m": "x", "role": "y", "chat_template": "z", "tokenize": True, "a b": 1}
    data, tokenizer = write(DATED, {"messages": PLAIN, **more})
    assert render_chat(data.documents[0], tokenizer).prompt.startswith("today<|user|>")


def test_a_column_that_the_template_would_read_is_refused(write):
    data, tokenizer = write(DATED, {"messages": PLAIN, "id": 7, "date": "1901"})
    with pytest.raises(DataError, match=r"reads date, a column of rows\.jsonl:1") as raised:
        render_chat(data.documents[0], tokenizer)
    assert '"chat_template_kwargs": {"date": ...}' in raised.value.hint
    data, tokenizer = write(DATED, {"messages": PLAIN, "chat_template_kwargs": {"tokenize": True}})
    with pytest.raises(DataError, match=r"chat_template_kwargs of rows\.jsonl:1 sets tokenize"):
        render_chat(data.documents[0], tokenizer)


def test_a_chat_gives_the_same_tokens_every_day(write):
    """A template that prints today's date is told one day, that of open-unlearning; a row may name its own."""
    template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ date_string }}|" + STRINGS
    )
    data, tokenizer = write(template, {"messages": PLAIN})
    assert render_chat(data.documents[0], tokenizer).whole.startswith("10 Apr 2025|")
    notes = []
    tokenize(data, tokenizer, 256, SimpleNamespace(note=notes.append))
    assert notes == [f"{data.spec}: the chat template writes the date, which is always 10 Apr 2025 here"]
    assert data.record()["chat_day"] == "2025-04-10"
    data, tokenizer = write(template, {"messages": PLAIN, "chat_template_kwargs": {"date_string": "26 Jul 2024"}})
    assert render_chat(data.documents[0], tokenizer).whole.startswith("26 Jul 2024|")
    data, tokenizer = write(template, {"messages": PLAIN, "chat_template_kwargs": {"strftime_now": "x"}})
    with pytest.raises(DataError, match="strftime_now, which is not a template variable"):
        render_chat(data.documents[0], tokenizer)
    data, tokenizer = write("{% set form = '%Y' %}{{ strftime_now(form) }}|" + STRINGS, {"messages": PLAIN})
    tokenize(data, tokenizer, 256, SimpleNamespace(note=notes.append))
    assert "tokens may change from day to day" in notes[-1]
