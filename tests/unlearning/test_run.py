"""The stages of a run, as they are planned, and what is told of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from forgetting import TASK, Notes

from taskarith.unlearning.run import Run, make_result, planned
from taskarith.unlearning.stages import Stages


def names(task):
    return [command.split()[1] for command in planned(task)]


def test_every_stage_is_planned():
    assert names(TASK) == [
        *("eval", "finetune", "extract", "finetune", "extract", "relate", "sweep", "apply", "eval", "attack")
    ]
    assert names(replace(TASK, keep=0.0)) == ["eval", "finetune", "extract", "sweep", "apply", "eval", "attack"]
    adapters = replace(TASK, learning=replace(TASK.learning, lora=True))
    assert names(adapters) == ["eval", "finetune", "finetune", "relate", "sweep", "apply", "eval", "attack"]


def test_the_time_left_follows_from_the_measurement(tmp_path):
    for reference, quick, lens, rows in (
        (None, False, 8, 2 + 2 + 3 * 2 + 8),
        ("base", False, 8, (2 + 2 + 1 + 3 * (2 + 1) + 2 * 8) / 2),
        (None, True, 8, 2 + 2 + 3 * 2 + 3),
        (None, True, 0, 2 + 2 + 2 + 3),
    ):
        measurement = replace(TASK.measurement, lens=lens)
        task = replace(TASK, folder=tmp_path, reference=reference, quick=quick, measurement=measurement)
        stages = Stages(tmp_path, {}, dict, 9, True, Notes())
        call = task.measure((task.model,), "before")
        stages.run("measure", call, lambda call=call: call.output.write_text("x"))
        run = Run(task, stages, Notes(), compromise=False, sizes={"f.txt": 100, "r.txt": 100, "s.txt": 200})
        assert run._seconds_left() == stages.seconds("before") * rows
        assert [run._forecast(number, Notes())._lessons for number in (0, 1)] == [4, 1]


def test_the_result_of_a_dry_run():
    result = make_result(TASK, "planned", None, (), (), planned(TASK), 0.0)
    assert (result.edited, result.report, result.alpha) == (None, None, None)
    assert result.output_dir == Path("run")
    assert result.missing
