"""What a command that is stopped says is true, after Ctrl-C and on a full disk: what is kept, and how it goes on."""

from __future__ import annotations

import resource

import pytest
import tiny
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.console import Console
from taskarith.demo.scale import Scale
from taskarith.edit.apply import apply
from taskarith.evaluation.measurement import Measurement
from taskarith.vectors.extract import extract

TINY = Scale(
    characters=60, block_size=16, batch_size=1, epochs=1, learning_rate=1e-3, alphas=(0.0, 1.0),
    measurement=Measurement(block_size=8, prompts=1, prompt_tokens=4, continuation_tokens=4),
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    base = tiny.save_model(place / "base")
    tiny.save_model(place / "tuned", nudge_of=base, seed=1)
    extract(str(base), str(place / "tuned"), place / "v.safetensors")
    apply(str(base), add=[str(place / "v.safetensors")], output_dir=place / "edited", keep_undo=True)
    for name in ("forget", "retain"):
        (place / f"{name}.txt").write_text("a cat on a mat and a dog in the fog " * 20)
    return place


DATA = ["--data", "forget=forget.txt", "--data", "retain=retain.txt"]
LOSSES = ["--prompts", "0", "--block-size", "16"]
SWEEP = ["sweep", "tuned", "--negate", "v.safetensors", "--budget", "9", *DATA, *LOSSES]
COMMANDS = {
    "apply": ["apply", "base", "--add", "v.safetensors"],
    "apply --keep-undo": ["apply", "base", "--add", "v.safetensors", "--keep-undo"],
    "extract": ["extract", "base", "tuned"],
    "extract --exact": ["extract", "base", "tuned", "--exact"],
    "extract --rank": ["extract", "base", "tuned", "--rank", "2"],
    "combine": ["combine", "v.safetensors + v.safetensors"],
    "undo": ["undo", "edited"],
    "finetune": ["finetune", "base", "--data", "forget.txt", "--block-size", "16", "--max-steps", "2"],
    "finetune --save-steps": [
        "finetune", "base", "--data", "forget.txt", "--block-size", "16", "--max-steps", "2", "--save-steps", "1",
    ],
    "eval": ["eval", "tuned", *DATA, *LOSSES],
    "sweep": [*SWEEP, "--alpha", "0,1"],
    "sweep --storage": [*SWEEP, "--search", "2", "--storage", "OUT.trials"],
    "importance": ["importance", "tuned", "--forget", "forget.txt", "--retain", "retain.txt", "--block-size", "16"],
    "attack": ["attack", "edited", "--forget", "forget.txt"],
    "relate": ["relate", "v.safetensors", "v.safetensors"],
    "demo": ["demo", "--model", "base"],
}  # fmt: skip
FILES = {"extract": "-o", "extract --exact": "-o", "combine": "-o", "importance": "-o", "relate": "--plot"}
MEASURING = {
    name for name in COMMANDS if name.split()[0] in {"finetune", "eval", "sweep", "importance", "attack", "demo"}
}
"""Those that take seconds: they are interrupted once."""


class Interrupted:
    """Counts what a command tells of its progress, and interrupts it at one of these."""

    def __init__(self, monkeypatch):
        self.count, self.at = 0, 0
        monkeypatch.setattr(Console, "progress", self)

    def __call__(self, *_):
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt


@pytest.fixture
def run(made, monkeypatch):
    """Run a command into an output, interrupted at a call; tell how it ended, and how many calls it made."""
    monkeypatch.chdir(made)
    monkeypatch.setattr("taskarith.demo.scale.FULL", TINY)
    bars = Interrupted(monkeypatch)

    def do(name, out, at=0, *more):
        bars.count, bars.at = 0, at
        words = [word.replace("OUT", str(out)) for word in COMMANDS[name]]
        done = CliRunner().invoke(app, [*words, FILES.get(name, "-o"), str(out), *more])
        return done, bars.count

    return do


def check(stopped, out, name):
    """Compare what was said with what is there; return what has to be added to the command to go on."""
    said, left = " ".join(stopped.stderr.split()), {path.name for path in out.parent.iterdir()}
    assert stopped.exit_code == 130, stopped.output
    assert "No unfinished output was published." in said
    if name == "demo":  # a folder of outputs, which is gone on with
        assert "The same command goes on from the last stage." in said
        assert not (out / "tuned").exists()
        return []
    assert out.name not in left
    assert (f".{out.name}.partial" in left) == ("goes on where this one stopped" in said)
    assert (f".{out.name}.training" in left) == ("run the same command with --resume" in said)
    assert ("Finished trials are kept" in said) == (name == "sweep --storage")
    return ["--resume"] if "run the same command with --resume" in said else []


@pytest.mark.parametrize("name", COMMANDS)
def test_what_an_interruption_says_is_true(tmp_path, run, name):
    suffix = ".svg" if name == "relate" else ".safetensors" if name in FILES else ""
    out = tmp_path / f"out{suffix}"
    if name in MEASURING:
        stopped, _ = run(name, out, 2)
        more = check(stopped, out, name)
        if name in {"finetune --save-steps", "sweep --storage", "demo"}:
            assert run(name, out, 0, *more)[0].exit_code == 0
        return
    _, calls = run(name, tmp_path / f"whole{suffix}")
    for at in (calls, 1, calls // 2):  # early once more, when there is work of the first time
        stopped, _ = run(name, out, at)
        check(stopped, out, name)
    assert run(name, out)[0].exit_code == 0


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"attack", "demo", "sweep --storage"}))
def test_a_limit_of_a_files_size_is_named_whatever_writes(tmp_path, run, name):
    suffix = ".svg" if name == "relate" else ".safetensors" if name in FILES else ""
    out = tmp_path / f"out{suffix}"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = 50_000 if name.startswith("finetune") else 500  # bytes of a file
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        done, _ = run(name, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.exit_code == 1, done.output
    said, left = " ".join(done.stderr.split()), {path.name for path in tmp_path.iterdir()}
    limited = f"cannot write {out}: a file would be larger than this system allows"
    assert limited in said or f"cannot write a checkpoint to {tmp_path}" in said
    assert (f".{out.name}.partial" in left) == ("goes on where this one stopped" in said)
    assert left <= {f".{out.name}.partial"}
