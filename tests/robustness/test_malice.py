"""Files that somebody made to do harm, at every door: an error of our own or no harm, no code run, nothing steered."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from finetuning import Notes
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from benchmarks.robustness import sound
from benchmarks.robustness.commands import World
from taskarith.cli.main import app
from taskarith.cli.process import escape_logs
from taskarith.edit.apply import apply
from taskarith.training.finetune import finetune
from taskarith.training.resume import finish_checkpoint
from taskarith.vectors.extract import extract

ESCAPES = "\x1b]0;x\x07\x1b[2J\x9b31m\r\u202e[bold red]x[/bold red]"
TRAINING = {"max_steps": 3, "block_size": 16, "device": "cpu"}


class Harm:
    """Makes a folder where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ["HARM"],)


def _disguises():
    zipped, table = io.BytesIO(), io.BytesIO()
    torch.save(Harm(), zipped)
    np.save(table, np.array([Harm()], dtype=object), allow_pickle=True)
    return {"pickle": pickle.dumps(Harm()), "zip": zipped.getvalue(), "npy": table.getvalue()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sound files of every kind, and a training that was interrupted."""
    folder = tmp_path_factory.mktemp("made") / "sound"
    World(folder)
    base = str(folder / "base")
    extract(base, str(folder / "one"), folder / "v.safetensors")
    apply(base, add=[str(folder / "v.safetensors")], output_dir=folder / "edited", keep_undo=True)
    sound.make_records(folder / "records.jsonl")
    sound.make_weights(folder / "v.safetensors", folder / "weights.safetensors")
    chat = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
    (folder / "chat.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    with contextlib.chdir(folder), pytest.raises(KeyboardInterrupt):
        finetune("base", ["text.txt"], "ft", save_steps=1, listener=Notes(2), **TRAINING)
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy to be damaged; the harm would be a folder beside it. The interrupted training is of that very place."""
    monkeypatch.setenv("HARM", str(tmp_path / "harm"))
    away = made.with_name("away")
    shutil.copytree(made, away)
    yield made
    shutil.rmtree(made)
    away.rename(made)
    assert not (tmp_path / "harm").exists()


COMMANDS = {
    "apply": "apply base --add v.safetensors -o out",
    "adapter": "apply base --add adapter -o out",
    "weights": "apply base --add v.safetensors --method perta --weights weights.safetensors -o out",
    "extract": "extract base one -o out.safetensors",
    "inspect": "inspect base",
    "eval": "eval base --data t=text.txt --prompts 0 --block-size 32",
    "eval adapter": "eval adapter --data t=text.txt --prompts 0 --block-size 32",
    "undo": "undo edited -o out",
    "verify": "verify edited",
    "repeat": "apply --config edited/taskarith.json -o out",
    "score": "score records.jsonl",
    "resume": "finetune base --data text.txt -o ft --max-steps 3 --block-size 16 --device cpu --resume",
    "train": "finetune base --data text.txt -o out --max-steps 1 --block-size 16 --device cpu",
    "chat": "finetune base --data chat.jsonl -o out --max-steps 1 --block-size 64 --device cpu",
    "importance": "importance base --forget text.txt --retain text.txt -o out.safetensors --block-size 16",
    "sweep": "sweep base --add v.safetensors --alpha 0 --target 3 --prompts 0 --data forget=text.txt --data k=text.txt",
    "relate": "relate v.safetensors adapter --model base --data a=text.txt --data b=text.txt --inputs 2",
}


def run(place, monkeypatch, words):
    """Run a command in a folder; return its exit code and what it printed, which steers no terminal."""
    monkeypatch.chdir(place)
    done = CliRunner().invoke(app, COMMANDS.get(words, words).split())
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    printed = done.stdout + done.stderr
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", printed), printed
    assert len(printed) < 20_000
    return done.exit_code, printed


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# --- pickles ---------------------------------------------------------------------------------------------------------

CHECKPOINT = ".ft.training/checkpoint-1"
DOORS = [
    ("base/model-00001-of-00002.safetensors", "apply", "header"),
    ("base/model-00001-of-00002.safetensors", "inspect", "header"),
    ("base/model.safetensors.index.json", "apply", "index"),
    ("base/config.json", "eval", "config.json"),
    ("base/tokenizer.json", "eval", "tokenizer"),
    ("v.safetensors", "apply", "v.safetensors"),
    ("weights.safetensors", "weights", "weights.safetensors"),
    ("adapter/adapter_model.safetensors", "adapter", "adapter_model"),
    ("adapter/adapter_model.safetensors", "eval adapter", "is not a sound safetensors file"),
    ("adapter/adapter_config.json", "adapter", "adapter_config.json"),
    ("edited/taskarith-undo.safetensors", "undo", "undo"),
    ("edited/taskarith.json", "verify", "taskarith.json"),
    ("edited/taskarith.json", "repeat", "taskarith.json"),
    ("records.jsonl", "score", "records.jsonl"),
    ("text.txt", "eval", "text.txt"),
    *((f"{CHECKPOINT}/{name}", "resume", "cannot ") for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")),
    *((f"{CHECKPOINT}/{name}", "resume", "cannot ") for name in ("scaler.pt", "trained.safetensors", "../run.json")),
]


@pytest.mark.parametrize(("file", "words", "says"), DOORS)
def test_pickles_in_the_place_of_other_files_are_not_opened(place, monkeypatch, file, words, says):
    (place / file).write_bytes(_disguises()["zip" if file.endswith((".pt", ".pth")) else "pickle"])
    if CHECKPOINT in file:
        finish_checkpoint(place / CHECKPOINT)  # its list of files fits, as that of a stranger would
    code, printed = run(place, monkeypatch, words)
    assert code in {1, 2}
    assert says in printed


@pytest.mark.parametrize(
    ("name", "disguise"),
    [
        *(("x.pkl", "pickle"), ("x.jsonl", "pickle"), ("x.safetensors", "pickle")),
        *(("x.pt", "zip"), ("x.gguf", "zip"), ("x.npy", "npy"), ("x.parquet", "npy")),
    ],
)
def test_pickles_under_any_name_are_refused_wherever_a_file_is_named(place, monkeypatch, name, disguise):
    (place / name).write_bytes(_disguises()[disguise])
    for words in (
        f"apply base --add {name} -o out",
        f"apply {name} --add v.safetensors -o out",
        f"apply base --add v.safetensors --chat-template {name} -o out",
        f"apply --config {name} -o out",
        f"score {name}",
        f"importance base --forget {name} --retain text.txt -o out.safetensors",
        f"sweep base --negate v.safetensors --search 1 --storage {name} --target 3 --data forget=text.txt",
    ):
        assert run(place, monkeypatch, words)[0] in {1, 2}, words


def test_pickles_that_lie_in_a_checkpoint_are_not_opened(place, monkeypatch):
    for name in ("training_args.bin", "pytorch_model.bin", "adapter_model.bin"):
        (place / CHECKPOINT / name).write_bytes(_disguises()["zip"])
    finish_checkpoint(place / CHECKPOINT)
    assert run(place, monkeypatch, "resume")[0] == 0


@pytest.mark.parametrize(
    "values",
    [
        {"global_step": 10**12},
        {"global_step": None},
        {"train_batch_size": "x"},
        {"log_history": 5},
        {"log_history": [5]},
        {"epoch": ESCAPES},
        {"stateful_callbacks": [1]},
    ],
    ids=str,
)
def test_the_state_of_a_training_is_checked_before_it_is_resumed(place, monkeypatch, values):
    change(place / CHECKPOINT / "trainer_state.json", **values)
    finish_checkpoint(place / CHECKPOINT)
    code, printed = run(place, monkeypatch, "resume")
    assert code == 1
    assert "checkpoint-1" in printed


# --- code ------------------------------------------------------------------------------------------------------------

OWN_CODE = {f"Auto{name}": "harm.C" for name in ("Config", "Model", "ModelForCausalLM")}


CONFIGURATIONS = [
    ("config.json", {"auto_map": OWN_CODE, "model_type": "harm"}),
    ("config.json", {"auto_map": OWN_CODE}),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["harm.C", "harm.C"]}, "tokenizer_class": "C"}),
]


@pytest.mark.parametrize(
    ("words", "file", "values"),
    [(words, *CONFIGURATIONS[0]) for words in ("train", "importance", "sweep", "relate", "adapter")]
    + [("eval", *one) for one in CONFIGURATIONS],
)
def test_the_code_of_a_model_is_not_run_unless_it_is_trusted(place, monkeypatch, words, file, values):
    (place / "base/harm.py").write_text("import os\nos.mkdir(os.environ['HARM'])\nclass C: pass\n")
    change(place / "base" / file, **values)
    code, printed = run(place, monkeypatch, words)
    assert code == 0 or "would run on this machine" in printed or "harm" in printed


@pytest.mark.parametrize("words", ["adapter", "eval adapter"])
def test_an_adapter_names_no_module_to_import(place, monkeypatch, words):
    (place / "harm.py").write_text("import os\nos.mkdir(os.environ['HARM'])\n")
    monkeypatch.syspath_prepend(str(place))
    named = {"auto_mapping": {"base_model_class": "C", "parent_library": "harm"}, "task_type": None}
    change(place / "adapter/adapter_config.json", **named, megatron_config={"a": 1}, megatron_core="harm.core")
    assert run(place, monkeypatch, words)[0] in {0, 1}


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.mkdir('HARM') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include '/etc/passwd' %}",
        "{{ 1 // 0 }}",
        f"{{{{ raise_exception({ESCAPES!r}) }}}}",
        "{% for %}",
    ],
)
def test_a_chat_template_runs_in_a_sandbox(place, monkeypatch, template):
    (place / "base/chat_template.jinja").write_text(template.replace("HARM", os.environ["HARM"]))
    code, printed = run(place, monkeypatch, "chat")
    assert code == 1
    assert "the chat template" in printed


# --- texts that steer, and files that no program expects -------------------------------------------------------------


@pytest.mark.parametrize("words", ["inspect one", "diff one two", "extract base one -o out.safetensors", "eval one"])
def test_names_of_tensors_steer_no_terminal(place, monkeypatch, words):
    tensors = load_file(place / "one/model.safetensors") | {ESCAPES: np.ones(3, np.float32)}
    save_file(tensors, place / "one/model.safetensors", metadata={"format": "pt", ESCAPES: ESCAPES})
    run(place, monkeypatch, words)


@pytest.mark.parametrize("key", ["model", "text", "sample", "kind", "reference"])
def test_names_in_records_steer_no_terminal(place, monkeypatch, key):
    rows = [json.loads(line) for line in (place / "records.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, key: f"{row.get(key, '')}{ESCAPES}"}) for row in rows]
    (place / "records.jsonl").write_text("\n".join(lines))
    run(place, monkeypatch, "score")


@pytest.mark.parametrize("key", ["model_type", "dtype", "architectures", "rope_parameters"])
def test_values_of_a_configuration_steer_no_terminal(place, monkeypatch, key):
    change(place / "base/config.json", **{key: [ESCAPES] if key == "architectures" else ESCAPES})
    run(place, monkeypatch, "adapter")


def test_names_of_files_and_records_steer_no_terminal(place, monkeypatch):
    (place / "edited" / ESCAPES.replace("/", "")).write_text("x")
    change(place / "edited/taskarith.json", command=ESCAPES, files={ESCAPES: "0"})
    for words in ("verify", "undo", "repeat", "inspect edited", "apply base --add v.safetensors -o edited --overwrite"):
        run(place, monkeypatch, words)


def test_what_libraries_log_steers_no_terminal():
    code = f"import logging\nfrom {escape_logs.__module__} import escape_logs\nescape_logs()\n"
    code += f"logging.getLogger('x').warning('a %s\\nb', {ESCAPES!r} + '\x1b[1mbold\x1b[0m')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "a \\x1b]0;x\\x07\\x1b[2J\\x9b31m\\r\\u202e[bold red]x[/bold red]bold\nb\n"


@pytest.mark.parametrize(
    ("file", "data"),
    [
        *(("tokenizer.json", data) for data in (b"", b"[]", b"null", b"5", b"[" * 100_000, b"\xff\xfe", b"{}")),
        *(("tokenizer.json", data) for data in (b'{"added_tokens": [{"id": 1000000000000, "content": "a"}]}',)),
        *(("special_tokens_map.json", data) for data in (b"[]", b"5", b"[" * 100_000)),
        *(("added_tokens.json", data) for data in (b"[]", b"5", b"[" * 100_000)),
        *(("generation_config.json", data) for data in (b"[]", b"5")),
        *(
            ("tokenizer_config.json", json.dumps(values).encode())
            for values in (
                {"model_max_length": "x"},
                {"tokenizer_class": 5},
                {"eos_token": {"x": 1}},
                {"added_tokens_decoder": 5},
                {"chat_template": [5]},
                {"extra_special_tokens": 5},
            )
        ),
    ],
)
def test_files_of_a_tokenizer_are_refused_with_an_error_of_our_own(place, monkeypatch, file, data):
    (place / "base" / file).write_bytes(data)
    for words in ("eval", "train")[: 1 if data else 2]:  # which have one loader
        code, printed = run(place, monkeypatch, words)
        assert code == 1
        assert "cannot load" in printed or "cannot read" in printed or "generation_config" in printed


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("chat_template.jinja", b"\xff"),
        ("tokenizer.json", b'{"added_tokens": [\xff'),
        ("tokenizer.json", b'{"added_tokens": ' + b"[" * 10**5),
    ],
)
def test_texts_of_an_added_model_may_be_anything(place, monkeypatch, file, data):
    (place / "one" / file).write_bytes(data)
    assert run(place, monkeypatch, "apply base --add one@@base -o out")[0] in {0, 1}


# --- claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size"),
    [([1 << 20, 1 << 20], 1 << 42), ([1 << 40], 4), ([1 << 62, 0], 0), ([1 << 20, 1 << 20, 1 << 20], 8)],
)
def test_claims_of_terabytes_cost_nothing(place, monkeypatch, shape, size):
    folder = place / "huge"
    folder.mkdir()
    shutil.copy(place / "base/config.json", folder)
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    for words in (
        "inspect huge --top 0",
        "apply huge --add huge@@huge -o out --dry-run",
        "apply huge --add adapter -o out",
    ):
        if size < 1 << 40 or "inspect" not in words:  # the file is sparse: it may be read, and takes its time
            assert run(place, monkeypatch, words)[0] in {0, 1, 2}


@pytest.mark.parametrize(
    "file", ["base/config.json", "adapter/adapter_config.json", "edited/taskarith.json", "x.jsonl"]
)
def test_a_line_of_megabytes_is_read_and_not_printed(place, monkeypatch, file):
    path = place / file
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | {"y" * 5_000_000: "x" * 5_000_000}))
    for words in ("adapter", "verify", "eval base --data t=x.jsonl --prompts 0"):
        run(place, monkeypatch, words)


def test_yaml_that_multiplies_is_refused_in_recipes(place, monkeypatch):
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))
    (place / "bomb.yaml").write_text(bomb)
    for verb in ("apply", "eval base", "finetune base"):
        assert run(place, monkeypatch, f"{verb} --config bomb.yaml")[0] == 2


@pytest.mark.parametrize("target", ["../one/model.safetensors", "/etc/passwd", "sub/../../one/model.safetensors"])
def test_a_weight_map_that_leaves_the_folder_is_refused_by_every_reader(place, monkeypatch, target):
    path = place / "base/model.safetensors.index.json"
    weights = dict.fromkeys(json.loads(path.read_text())["weight_map"], target)
    change(path, weight_map=weights)
    for words in ("apply", "inspect", "eval", "extract base one -o out.safetensors"):
        code, printed = run(place, monkeypatch, words)
        assert code == 1
        assert "index" in printed
