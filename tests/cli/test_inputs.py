"""A mistyped name of an input is refused by every command before torch is imported, in the words of the verb."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest

from taskarith.cli.inputs import check_inputs
from taskarith.errors import CheckpointError, DataError, UsageError, VectorError

MODEL, DATA = "there is no model folder nope", "there is no file {}/nope.txt"
VECTOR = "there is no vector nope.safetensors"
COMMANDS = {
    "eval nope --data t=TEXT": MODEL,
    "eval BASE --reference nope --data t=TEXT": MODEL,
    "eval BASE --data t=GONE": DATA,
    "eval BASE --data t=TEXT --negate nope.safetensors": VECTOR,
    "eval BASE --data t=TEXT --add BASE@@nope": MODEL,
    "sweep nope --data forget=TEXT --data retain=TEXT --negate BASE": MODEL,
    "sweep BASE --data forget=TEXT --data retain=GONE --negate BASE": DATA,
    "sweep BASE --data forget=TEXT --data retain=TEXT --negate nope.safetensors:0.5": VECTOR,
    "sweep BASE --data a=TEXT --data b=TEXT --negate BASE": "there is no forget set",
    "sweep BASE --data forget=TEXT --data b=TEXT --negate BASE --reference BASE": "the reference is the model itself",
    "attack nope --forget TEXT": MODEL,
    "attack BASE --forget TEXT --before nope": MODEL,
    "attack BASE --forget GONE": DATA,
    "attack BASE --forget TEXT --unrelated GONE": DATA,
    "attack BASE --forget TEXT --rephrased GONE": DATA,
    "unlearn nope --forget TEXT --retain TEXT": MODEL,
    "unlearn BASE --base nope --forget TEXT --retain TEXT": MODEL,
    "unlearn BASE --forget TEXT --retain GONE": DATA,
    "unlearn BASE --forget TEXT --retain TEXT --holdout GONE": DATA,
    "finetune nope --data TEXT -o OUT": MODEL,
    "finetune BASE --data GONE -o OUT": DATA,
    "finetune BASE --data TEXT --retain GONE -o OUT": DATA,
    "finetune BASE --data TEXT --validation GONE -o OUT": DATA,
    "demo --model nope -o OUT": MODEL,
    "importance nope --forget TEXT --retain TEXT -o OUT": MODEL,
    "importance BASE --forget TEXT --retain GONE -o OUT": DATA,
    "ood nope.safetensors BASE --gamma 1,1": VECTOR,
    "ood BASE BASE --model nope --gamma 1,1": MODEL,
    "ood BASE BASE --data t=GONE": DATA,
    "relate nope.safetensors BASE": VECTOR,
    "relate BASE BASE --model nope": MODEL,
    "relate BASE BASE --data a=TEXT --data b=GONE": DATA,
    "apply nope --negate BASE -o OUT": MODEL,
    "apply BASE --negate nope.safetensors -o OUT": VECTOR,
    "extract nope BASE -o OUT.safetensors": MODEL,
    "extract BASE nope -o OUT.safetensors": MODEL,
    "extract nope -o OUT.safetensors": MODEL,
    "extract BASE nope --rank 4 -o OUT": MODEL,
    "extract nope BASE --dry-run -o OUT.safetensors": MODEL,
}
USAGE = {"there is no forget set", "the reference is the model itself"}
RUN_ALL = """
import json, sys
from typer.testing import CliRunner
from taskarith.cli.main import app
found = []
for words in json.load(sys.stdin):
    done = CliRunner().invoke(app, words)
    found.append((done.exit_code, done.stderr, "torch" in sys.modules or "transformers" in sys.modules))
json.dump(found, sys.stdout)
"""


def test_every_command_refuses_them_before_torch_is_imported(tmp_path, phi):
    (tmp_path / "text.txt").write_text("Some words.")
    places = {
        "BASE": str(phi),
        "TEXT": f"{tmp_path}/text.txt",
        "GONE": f"{tmp_path}/nope.txt",
        "OUT": f"{tmp_path}/out",
    }
    lines = [shlex.split(re.sub("|".join(places), lambda found: places[found[0]], line)) for line in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL], input=json.dumps(lines), capture_output=True, text=True, check=True
    )
    for (line, message), (code, shown, is_slow) in zip(COMMANDS.items(), json.loads(done.stdout), strict=True):
        assert (code, is_slow) == (1 + (message in USAGE), False), line
        assert shown.startswith(f"error: {message.format(tmp_path)}\nhint: "), line
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("name", ["org/model", "org/model@v1", "smollm2-135m", None])
def test_what_may_be_on_the_hub_is_not_asked_for(name, monkeypatch):
    monkeypatch.setattr("taskarith.checkpoints.resolve._from_hub", None)
    check_inputs([name])


@pytest.mark.parametrize("spec", ["org/data", "org/data:config:train:text", "squad", None])
def test_neither_are_data_sets(spec):
    check_inputs([], [spec])


@pytest.mark.parametrize("text", ["org/vector", "org/vector:0.5", "org/vector:v.safetensors", "org/a@@org/b:-1"])
def test_nor_vectors(text):
    check_inputs([], [], [text])


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ((["nope"],), CheckpointError),
        (([""],), UsageError),
        (([], [""]), UsageError),
        (([], [], [""]), UsageError),
        ((["a/b/c"],), CheckpointError),
        (([], ["./gone"]), DataError),
        (([], ["gone.jsonl:text"]), DataError),
        (([], [], ["v.safetensors"]), VectorError),
        (([], [], ["org/name@@nope"]), CheckpointError),
        (([], [], ["v:nan"]), UsageError),
        (([], ["a:b:c:d:e"]), UsageError),
    ],
    ids=str,
)
def test_kinds_of_errors_are_those_of_the_verbs(given, kind):
    with pytest.raises(kind):
        check_inputs(*given)
