"""Stages that are done by verbs, and what they say."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from forgetting import FULL, TASK, Notes

from taskarith.unlearning.stages import Stages
from taskarith.unlearning.steps import Indented, do, learn_vector


def test_what_a_stage_says_is_set_apart():
    notes = Notes()
    Indented(notes).note("one\n  two")
    assert notes.told == ["    one\n      two"]


def test_a_verb_gets_the_inputs_the_output_and_what_is_set(tmp_path):
    calls, stages = [], Stages(tmp_path, {}, dict, 3, True, Notes())
    task = replace(TASK, folder=tmp_path)

    def verb(*inputs, **options):
        calls.append((inputs, {name: value for name, value in options.items() if name not in {"listener", "alphas"}}))

    do(stages, "learn", task.learn(["f.txt"], "learned-forget"), verb)
    do(stages, "take", task.extract("forget"), verb)
    do(stages, "measure", task.measure(("tuned",), "before"), verb)
    do(stages, "relate", task.relate(), verb)
    (learned, options), (taken, _), (measured, measuring), (related, relating) = calls
    assert learned == ("tuned", ["f.txt"])
    assert options["output_dir"] == tmp_path / "learned-forget"
    assert options["overwrite"] is True
    assert "device" not in options
    assert "num_train_epochs" not in options
    assert taken == ("tuned", str(tmp_path / "learned-forget"), tmp_path / "forget.safetensors")
    assert (measured, measuring["data"]) == ((["tuned"],), task.data)
    assert related == ([str(tmp_path / "forget.safetensors"), str(tmp_path / "retain.safetensors")],)
    assert relating["data"] == {"forget": "f.txt", "retain": "r.txt"}


def test_an_adapter_is_the_vector_and_a_fine_tune_goes(tmp_path, phi):
    text = tmp_path / "t.txt"
    text.write_text("the harbour engine drank the borrowed winter " * 8)
    for lora, left in ((False, "kept.safetensors"), (True, "kept")):
        learning = replace(FULL, lora=lora, num_train_epochs=1, until_loss=None, block_size=16)
        task, notes = replace(TASK, model=str(phi), folder=tmp_path / left, learning=learning), Notes()
        task.folder.mkdir()
        steps = []

        def heard(listener, steps=steps):
            return SimpleNamespace(note=listener.note, progress=lambda *progress: steps.append(progress))

        learn_vector(Stages(task.folder, {}, dict, 2, False, notes), task, "kept", [str(text)], "learn it", heard)
        assert {path.name for path in task.folder.iterdir()} == {left, "stages.json"}
        assert task.vector("kept") == task.folder / left
        assert [done for what, done, _ in steps if what.startswith("training")] == [*range(1, int(steps[-1][2]) + 1)]
