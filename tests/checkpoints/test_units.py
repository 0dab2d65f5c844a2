"""Units of long work: what is finished is not done again by the same command, and dropped by no other."""

from __future__ import annotations

from contextlib import suppress

import pytest

from taskarith.checkpoints.units import Batches, Units, units_of
from taskarith.errors import CheckpointError, OutputError
from taskarith.progress import SILENT


def work(target, run, do, *, overwrite=False, listener=SILENT):
    """Do some work of a run, which is then interrupted."""
    with (
        suppress(KeyboardInterrupt),
        units_of(target, overwrite, lambda: run, inputs=(), listener=listener) as (_, units),
    ):
        do(units)
        raise KeyboardInterrupt


def test_what_is_finished_is_there_for_the_same_run_only(tmp_path):
    target, seen = tmp_path / "out", []
    work(target, {"model": "a"}, lambda units: units.within("eval").put("x", [1, 2]))
    work(target, {"model": "a"}, lambda units: seen.append(units.within("eval").get("x", list)))
    assert seen == [[1, 2]]
    with pytest.raises(OutputError, match="differs in model has left 1 finished pieces of work"):
        work(target, {"model": "b"}, seen.append)
    work(target, {"model": "b"}, lambda units: seen.append(units.names()), overwrite=True)
    assert seen[1:] == [[]]


def test_what_is_measured_while_an_input_changes_is_not_kept(tmp_path):
    now = {"models": "before", "texts": "t"}

    def measure():
        with units_of(tmp_path / "out", False, lambda: now, inputs=(), listener=SILENT) as (folder, units):
            (folder / "results.json").write_text("{}")
            units.put("x", 1)
            now["models"] = "after"

    with pytest.raises(CheckpointError, match="models changed while this ran"):
        measure()
    assert list(tmp_path.iterdir()) == []


def test_a_unit_of_another_kind_is_refused(tmp_path):
    work(tmp_path / "out", {}, lambda units: units.put("x", "text"))
    with pytest.raises(OutputError, match="a result of 'x' that no run of this command has measured"):
        work(tmp_path / "out", {}, lambda units: units.get("x", float))


def test_without_an_output_nothing_is_kept_and_that_is_said():
    units = Units()
    units.put("x", 1)
    assert (units.get("x", int), units.names()) == (None, [])
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        units_of(None, False, dict, inputs=(), listener=SILENT),
    ):
        raise KeyboardInterrupt
    assert "Nothing is kept without an output" in caught.value.__notes__[0]


def test_batches_are_packed_and_unpacked_by_their_items(tmp_path):
    found = []

    def batches(units):
        return Batches(units.within("a"), str, lambda item, value: (item, int(value)))

    work(tmp_path / "out", {}, lambda units: batches(units).add([3, 5], [7, 8]))
    work(tmp_path / "out", {}, lambda units: found.append(batches(units).finished()))
    assert found == [{(3, 5): [(3, 7), (5, 8)]}]
