"""From a text to an edited model: once, after stops, and where there is nothing to forget."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace

import oracle
import pytest
import tiny
from forgetting import Notes
from sweeping import learn
from typer.testing import CliRunner

import taskarith
from taskarith.checkpoints.team import ALONE
from taskarith.cli.main import app
from taskarith.errors import OutputError, UsageError
from taskarith.evaluation.measurement import Measurement
from taskarith.unlearning.unlearn import unlearn

pytestmark = pytest.mark.xdist_group("unlearn")  # which trains its models once

SMALL = Measurement(block_size=32, prompts=12, prompt_tokens=16, continuation_tokens=8, lens=4)
FAST = {
    "learning_rate": 3e-3,
    "num_train_epochs": 20,
    "alphas": (0.5, 1.0, 2.0, 3.0),
    "quick": True,
    "measurement": SMALL,
}
OPTIONS = "--learning-rate 3e-3 --num-train-epochs 20 --alpha 0.5,1,2,3 --quick --block-size 32 --prompts 12 "
OPTIONS += "--prompt-tokens 16 --continuation-tokens 8 --lens 4"


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A base, a model that learned two texts after it, and the texts."""
    folder = tmp_path_factory.mktemp("unlearn")
    for seed, (name, sentences) in enumerate({"forget": 24, "retain": 24, "before": 40, "holdout": 24}.items()):
        (folder / f"{name}.txt").write_text(tiny.text(sentences, seed), encoding="utf-8")
    base = learn(tiny.save_model(folder / "random"), folder / "base", [folder / "before.txt"], 80)
    learn(base, folder / "tuned", [folder / "forget.txt", folder / "retain.txt"], 400)
    return folder


@pytest.fixture(scope="module")
def run(room):
    return unlearn(**given(room), output_dir=room / "run")


def given(room, **changes):
    values = {name: str(room / name) for name in ("base", "tuned")}
    texts = {name: str(room / f"{name}.txt") for name in ("forget", "retain", "holdout")}
    found = {"model": values["tuned"], "base": values["base"], "reference": values["base"], **texts, **FAST}
    return {**found, **changes}


def test_a_text_is_forgotten_and_what_shows_it_is_written(run, room):
    on_others = not any("not used to choose, it does not hold" in one for one in run.verdicts)  # luck
    assert run.outcome == ("forgotten" if on_others else "edited"), run
    assert run.missing == ()
    assert run.alpha in FAST["alphas"]
    names = {path.name for path in run.output_dir.iterdir()}
    assert names == {
        *("before", "relation", "sweep", "edited", "after", "attack", "forget.safetensors", "retain.safetensors"),
        *("report.html", "results.json", "stages.json", "taskarith.json"),
    }
    found = json.loads((run.output_dir / "results.json").read_text())
    assert found == run.to_json()
    page = (run.output_dir / "report.html").read_text()
    assert "has forgotten most of the text forget" in page
    assert "What is left per layer" in page
    assert "Relations of task vectors" in page
    assert "Better than from base, which never saw it, the text forget can be read from tuned at layer" in page
    assert any("has forgotten most of the text forget" in one for one in run.verdicts)
    assert taskarith.verify(run.edited).is_sound
    scores = taskarith.score(run.output_dir / "after").by_text
    losses = {name.rpartition("/")[2]: of["forget"]["loss"].value for name, of in scores.items()}
    assert losses["edited"] >= losses["base"] > losses["tuned"]


def test_the_same_call_makes_nothing_again(run, room, monkeypatch):
    before = {
        path: path.read_bytes() for path in run.output_dir.rglob("*") if path.suffix in {".safetensors", ".jsonl"}
    }
    notes = Notes()
    again = unlearn(**given(room), output_dir=run.output_dir, listener=notes)
    assert notes.begun == []
    assert again.commands == run.commands
    assert (again.outcome, again.alpha, again.verdicts) == (run.outcome, run.alpha, run.verdicts)
    assert all(path.read_bytes() == data for path, data in before.items())


def test_the_printed_commands_make_the_same(run, room, tmp_path):
    for command in run.commands:
        words = [word.replace(str(run.output_dir), str(tmp_path / "by-hand")) for word in shlex.split(command)[1:]]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (command, result.output)
    assert oracle.differing(oracle.load(tmp_path / "by-hand" / "edited"), oracle.load(run.edited)) == []
    rows = [(folder / "after" / "records.jsonl").read_text() for folder in (tmp_path / "by-hand", run.output_dir)]
    assert rows[0].replace("by-hand", "") == rows[1].replace(str(run.output_dir), f"{tmp_path}/")


def test_a_run_that_is_stopped_in_any_stage_goes_on(run, room, monkeypatch):
    import taskarith.unlearning.steps as module

    folder, whole = room / "stopped", module._call
    stops = len(run.commands)
    for stop in range(stops):
        count = iter(range(stops))

        def stopping(verb, call, listener, stop=stop, count=count):
            if next(count) == min(stop, 1):  # what is there is not made again: the next one that is not
                raise KeyboardInterrupt
            whole(verb, call, listener)

        monkeypatch.setattr(module, "_call", stopping)
        with pytest.raises(KeyboardInterrupt):
            unlearn(**given(room), output_dir=folder)
    monkeypatch.setattr(module, "_call", whole)
    notes = Notes()
    result = unlearn(**given(room), output_dir=folder, listener=notes)
    assert len(notes.begun) == 1
    assert (result.outcome, result.alpha) == (run.outcome, run.alpha)
    assert oracle.differing(oracle.load(result.edited), oracle.load(run.edited)) == []


def test_other_settings_are_refused_and_then_made_again_from_there(run, room):
    folder = shutil.copytree(run.output_dir, room / "changed")
    changed = given(room, alphas=(0.5, 1.0))
    with pytest.raises(OutputError, match="sweep was made of other inputs or with other settings"):
        unlearn(**changed, output_dir=folder)
    notes = Notes()
    unlearn(**changed, output_dir=folder, overwrite=True, listener=notes)
    assert notes.begun[0].endswith("choose alpha")


def test_another_learning_rate_is_refused_before_anything_is_learned(run, room):
    folder = shutil.copytree(run.output_dir, room / "slower")
    notes = Notes()
    with pytest.raises(OutputError, match=r"forget\.safetensors was made of other inputs or with other settings"):
        unlearn(**given(room, learning_rate=1e-3), output_dir=folder, listener=notes)
    assert notes.begun == []
    (folder / "learned-forget").mkdir()
    (folder / "learned-forget" / "notes.txt").write_text("mine")
    unlearn(**given(room), output_dir=folder)
    assert (folder / "learned-forget" / "notes.txt").read_text() == "mine"


def test_a_text_that_the_model_never_knew(room, tmp_path):
    for lacking in ("reference", "holdout"):
        call = given(room, forget=str(room / "before.txt"), model=str(room / "base"), base=None)
        call |= {"reference": str(room / "tuned"), lacking: None}
        call |= {"holdout": None if lacking == "holdout" else str(room / "holdout.txt")}
        call |= {"forget": str(room / "retain.txt"), "retain": str(room / "before.txt")}
        result = unlearn(**call, output_dir=tmp_path / lacking)
        assert result.outcome == "nothing to forget"
        assert result.edited is None
        assert "nothing to forget" in result.verdicts[0]
        assert not list((tmp_path / lacking).glob("*.safetensors"))
        assert (tmp_path / lacking / "report.html").exists()


def test_a_rule_that_cannot_be_met(room, run, tmp_path):
    call = given(room, alphas=(0.02, 0.05))
    folder = shutil.copytree(run.output_dir, tmp_path / "run")
    for name in ("sweep", "edited", "after", "attack"):
        shutil.rmtree(folder / name)
    notes = Notes()
    result = unlearn(**call, output_dir=folder, listener=notes)
    assert result.outcome == "not reached"
    assert result.edited is None
    assert not (folder / "edited").exists()
    assert "No alpha meets the rule" in result.verdicts[0]
    assert sum(one.startswith("alpha ") for one in notes.told) == 3
    if "best compromise" in result.verdicts[0]:
        written = unlearn(**call, output_dir=folder, compromise=True)
        assert written.outcome == "compromise"
        assert "No alpha meets the rule" in written.verdicts[0]
        assert written.edited.is_dir()


def test_on_top_of_the_model_by_adapters_without_a_reference(room, tmp_path):
    call = given(room, base=None, reference=None, lora=True, keep=0.0, budget=5.0, alphas=(1.0, 3.0))
    call["num_train_epochs"] = 4
    result = unlearn(**call, output_dir=tmp_path / "run")
    assert [one.split()[0] for one in result.missing] == ["--reference"]
    assert (tmp_path / "run" / "forget" / "adapter_model.safetensors").is_file()
    assert result.outcome in {"edited", "not reached"}


def test_the_command_goes_on_with_a_run(room, run):
    call = given(room)
    words = ["unlearn", call["model"], *(f"--{name}={call[name]}" for name in ("forget", "retain", "holdout"))]
    words += [f"--base={call['base']}", f"--reference={call['reference']}", *OPTIONS.split()]
    done = CliRunner().invoke(app, [*words, "-o", str(run.output_dir), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["outcome"] == run.outcome
    assert "8 of 10: write the edited model: is there already" in done.stderr


def test_several_processes_are_refused(room, tmp_path, monkeypatch):
    monkeypatch.setattr("taskarith.unlearning.unlearn.launched_team", lambda: replace(ALONE, size=2))
    with pytest.raises(UsageError, match="one process"):
        unlearn(**given(room), output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["file", "folder", "model"])
def test_somebody_elses_folder_is_left_alone(room, tmp_path, content):
    output = tmp_path / "out"
    if content == "file":
        output.write_text("mine")
    elif content == "folder":
        output.mkdir()
        (output / "notes.txt").write_text("mine")
    else:
        shutil.copytree(room / "tuned", output)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(OutputError):
        unlearn(**given(room), output_dir=output)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_an_output_that_holds_an_input_is_refused(room):
    with pytest.raises(OutputError):
        unlearn(**given(room), output_dir=room)
    with pytest.raises(OutputError):
        unlearn(**given(room), output_dir=room / "tuned")
