"""Stages are made once, and again only where what decides them has changed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from forgetting import Notes

from taskarith.errors import CheckpointError, OutputError
from taskarith.unlearning.call import Call
from taskarith.unlearning.stages import STAGES_NAME, Stages, read_stages, write_json


@pytest.fixture
def made():
    return []


def stages(folder, *, overwrite=False, roots=None):
    roots = {"text": "1", "other": "9"} if roots is None else roots
    return Stages(folder, roots, lambda: roots, 2, overwrite, Notes())


def call(folder, name="out", **options):
    return Call("eval", ("text",), folder / name, options)


def maker(output, made, content="x"):
    def make():
        made.append(output.name)
        output.write_text(f"{content}{len(made)}")

    return make


def run(found, one, made, after=()):
    found.run("measure", one, maker(one.output, made), after)


def test_what_is_there_is_not_made_again(tmp_path, made):
    one = call(tmp_path, a=1)
    run(stages(tmp_path), one, made)
    again = stages(tmp_path)
    run(again, one, made)
    assert made == ["out"]
    assert again.listener.told == ["1 of 2: measure: is there already"]
    assert again.commands == [str(one)]
    assert again.is_done(one)


def test_outputs_of_an_earlier_run_are_named(tmp_path, made):
    for name in ("first", "out", "gone"):
        run(stages(tmp_path), call(tmp_path, name), made)
    (tmp_path / "gone").unlink()
    again = stages(tmp_path)
    run(again, call(tmp_path, "first"), made)
    assert again.others() == ["out"]


@pytest.mark.parametrize("now", [{"text": "2", "other": "9"}, {"text": "1"}, None])
def test_what_is_made_while_an_input_changes_is_not_taken_for_its_own(tmp_path, made, now):
    def look_again():
        if now is None:
            raise CheckpointError("there is no text", "Give one.")
        return now

    one, changing = call(tmp_path), replace(stages(tmp_path), look_again=look_again)
    with pytest.raises(CheckpointError, match="changed or went away while this ran") as caught:
        run(changing, one, made)
    assert "--overwrite" in caught.value.hint
    with pytest.raises(OutputError, match="made of other inputs"):
        run(stages(tmp_path), one, made)
    run(stages(tmp_path, overwrite=True), one, made)
    assert made == ["out", "out"]
    assert stages(tmp_path).is_done(one)


@pytest.mark.parametrize("change", ["option", "input", "earlier stage", "output"])
def test_what_was_made_otherwise_is_refused_or_made_again(tmp_path, made, change):
    first, one = call(tmp_path, "first"), call(tmp_path, a=1)
    found = stages(tmp_path)
    run(found, first, made)
    run(found, one, made, ("first",))
    roots, options = {"text": "1", "other": "9"}, {"a": 1}
    if change == "option":
        options["a"] = 2
    elif change == "input":
        roots["text"] = "2"
    elif change == "output":
        one.output.write_text("somebody's")
    other = call(tmp_path, **options)
    before = one.output.read_text()

    def again(**how):
        found = stages(tmp_path, roots=roots, **how)
        found.expect(replace(first, options={"a": 3}) if change == "earlier stage" else first)
        run(found, other, made, ("first",))

    with pytest.raises(OutputError, match="other inputs or with other settings"):
        again()
    assert one.output.read_text() == before
    again(overwrite=True)
    assert made == ["first", "out", "out"]


def test_inputs_that_a_stage_does_not_read_do_not_matter(tmp_path, made):
    run(stages(tmp_path), call(tmp_path), made)
    assert stages(tmp_path, roots={"text": "1", "other": "10"}).is_done(call(tmp_path))


def test_a_moved_run_goes_on(tmp_path, made):
    folder = tmp_path / "a"
    folder.mkdir()
    run(stages(folder), call(folder, negate=str(folder / "v")), made)
    moved = folder.rename(tmp_path / "b")
    assert stages(moved).is_done(call(moved, negate=str(moved / "v")))


def test_a_stop_before_and_after_publishing(tmp_path, made):
    one = call(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        stages(tmp_path).run("measure", one, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert not stages(tmp_path).is_done(one)

    def publish_and_stop():
        maker(one.output, made)()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages(tmp_path).run("measure", one, publish_and_stop)
    assert stages(tmp_path).is_done(one)


def test_a_stop_while_something_is_replaced(tmp_path, made):
    one = call(tmp_path)
    run(stages(tmp_path), one, made)
    other = replace(one, options={"a": 2})
    with pytest.raises(KeyboardInterrupt):
        stages(tmp_path, overwrite=True).run("measure", other, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert not stages(tmp_path).is_done(other)
    assert not stages(tmp_path).is_done(one)  # nothing says any more what it was made of


@pytest.mark.parametrize("text", ["", "{", "[]", '{"out": 1}', '{"out": {"key": "1"}}', '{"out": {"key": 1}}', "\x00"])
def test_a_broken_file_is_said(tmp_path, text):
    (tmp_path / STAGES_NAME).write_text(text)
    with pytest.raises(OutputError, match="cannot read"):
        read_stages(tmp_path)


def test_numbers_of_another_kind_are_said(tmp_path):
    entry = {"key": "k", "before": "", "made": "", "seconds": "long", "command": ""}
    (tmp_path / STAGES_NAME).write_text(json.dumps({"out": entry}))
    with pytest.raises(OutputError, match="seconds"):
        read_stages(tmp_path)


def test_a_disk_that_takes_nothing_is_said(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        write_json(tmp_path / "missing" / "a.json", {})
