"""The demo on a tiny model: its path, its numbers, its folder, and the commands that it says do the same."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace

import pytest
from forgetting import Notes
from tiny_demo import TINY
from typer.testing import CliRunner

import taskarith
from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.cli.main import app
from taskarith.demo.run import run_demo
from taskarith.demo.scale import TEXTS
from taskarith.errors import OutputError
from taskarith.evaluation.run import row_name

pytestmark = pytest.mark.xdist_group("demo")  # which is run once in either form


def test_every_number_and_every_promised_file_is_there(shown):
    result, lora = shown
    assert tuple(result.curve) == TINY.alphas
    assert list(result.control) == ["forgotten", "aligned", "irrelevant", "random"]
    assert result.control["forgotten"] == result.curve[1.0]
    for scores in (result.base, *result.curve.values()):
        assert list(scores) == list(TEXTS)
        assert all(text["rouge_l_f1"].n == 2 and text["loss"].n > 1 for text in scores.values())
    names = {path.name for path in result.output_dir.iterdir()}
    vectors = {"aligned", "irrelevant", "tuned-adapter"} if lora else {"aligned.safetensors", "irrelevant.safetensors"}
    assert names == {
        *("texts", "tuned", "unlearned", "alpha.png", "alpha.svg", "results.json", "stages.json", "taskarith.json"),
        *("minus-aligned", "minus-irrelevant", "minus-random"),
        *vectors,
    }
    unlearned = result.unlearned
    assert unlearned.report == result.output_dir / "unlearned" / "report.html"
    assert (result.output_dir / "unlearned" / "edited").exists() == (unlearned.edited is not None)
    assert lora or unlearned.edited is not None


def test_the_numbers_are_those_of_the_folders(shown):
    result, lora = shown
    tuned = str(result.output_dir / "tuned")
    swept = taskarith.score(result.output_dir / "unlearned" / "sweep").by_text
    assert [swept[row_name(tuned, alpha)]["retain"] for alpha in TINY.alphas] == [
        scores["aligned"] for scores in result.curve.values()
    ]
    vector = result.output_dir / ("irrelevant" if lora else "irrelevant.safetensors")
    data = {role: str(result.output_dir / "texts" / name) for role, name in TEXTS.items()}  # in the same batches
    losses = replace(TINY.measurement, prompts=0)
    again = taskarith.evaluate([tuned], data, negate=[vector], alphas=[1.0], measurement=losses)
    assert again.scores.by_text[row_name(tuned, 1.0)] == result.control["irrelevant"]


def test_the_result_as_json_and_as_a_table(shown):
    result, _ = shown
    saved = json.loads((result.output_dir / "results.json").read_text())
    assert saved == json.loads(json.dumps(result.to_json()))
    assert saved["recommended_alpha"] == saved["unlearned"]["alpha"]
    assert {"base", "alpha 0", "minus random"} < set(result.to_pandas()["model"])
    assert len(repr(result)) < 400


def test_the_same_call_makes_only_what_is_not_there(shown, phi):
    result, lora = shown
    for stages, lost in ((0, []), (1, ["minus-random"])):
        for name in lost:
            shutil.rmtree(result.output_dir / name, ignore_errors=True)
        notes = Notes()
        again = run_demo(str(phi), result.output_dir, lora=lora, scale=TINY, listener=notes)
        assert len([one for one in notes.told if "\n" in one]) == stages
        assert timeless(again) == timeless(result)


def timeless(result):
    return replace(result, seconds=0.0, unlearned=replace(result.unlearned, seconds=0.0))


def test_other_settings_are_refused_without_overwrite(shown, phi):
    result, lora = shown
    before = (result.output_dir / "results.json").read_bytes()
    for changes in ({"scale": replace(TINY, characters=500)}, {"scale": TINY, "seed": 1}):
        with pytest.raises(OutputError, match="--overwrite") as refused:
            run_demo(str(phi), result.output_dir, lora=lora, **changes)
        assert refused.value.hint
    assert (result.output_dir / "results.json").read_bytes() == before


def test_the_commands_by_hand_give_the_same_models(shown, tmp_path):
    result, _ = shown
    for line in result.commands:
        program, *words = shlex.split(line.replace(str(result.output_dir / "texts"), "TEXTS"))
        assert program == "taskarith"
        words = [word.replace(str(result.output_dir), str(tmp_path)) for word in words]
        words = [word.replace("TEXTS", str(result.output_dir / "texts")) for word in words]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (line, done.output)
    assert fingerprint_model(tmp_path / "tuned") == fingerprint_model(result.output_dir / "tuned")
    if result.unlearned.edited is not None:
        assert fingerprint_model(tmp_path / "unlearned" / "edited") == fingerprint_model(result.unlearned.edited)


def test_what_was_not_learned_is_not_unlearned(tmp_path, phi):
    result = run_demo(str(phi), tmp_path / "d", scale=replace(TINY, learning_rate=1e-30, epochs=1))
    assert result.unlearned.outcome == "nothing to forget"
    assert (list(result.curve), result.control, result.lost) == ([0.0], {}, {})
    assert not (tmp_path / "d" / "alpha.png").exists()


@pytest.mark.parametrize("content", ["file", "folder", "model", "link"])
def test_somebody_elses_folder_is_left_alone(tmp_path, phi, phi_tuned, content):
    output = tmp_path / "out"
    if content == "file":
        output.write_text("mine")
    elif content == "folder":
        output.mkdir()
        (output / "thesis.txt").write_text("mine")
    else:
        output.symlink_to(phi_tuned if content == "model" else tmp_path / "nowhere")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for overwrite in (False, True):
        with pytest.raises(OutputError) as refused:
            run_demo(str(phi), output, scale=TINY, overwrite=overwrite)
        assert refused.value.hint
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_the_output_is_apart_from_the_model(phi):
    for output in (phi, phi / "deep", phi.parent):
        with pytest.raises(OutputError, match=r"which this command reads|is read by this command"):
            run_demo(str(phi), output, scale=TINY, overwrite=True)
