"""How every command is called: options that stand for the fields of a value, and failures in two lines."""

from __future__ import annotations

import inspect
import re
from typing import get_type_hints

import pytest
from commands import invoke, run

from taskarith.attacks import defaults
from taskarith.checkpoints.publish import KEPT
from taskarith.cli import attack, eval, ood, relate, sweep  # noqa: A004
from taskarith.cli.guard import guarded
from taskarith.evaluation.measurement import Measurement
from taskarith.models.runtime import Runtime
from taskarith.relations.inputs import TestInputs


@pytest.mark.parametrize(
    ("command", "values"),
    [
        (eval, [Measurement(), Runtime()]),
        (sweep, [Measurement(), Runtime()]),
        (attack, [defaults.MEASUREMENT, defaults.RUNTIME]),
        (relate, [TestInputs(), Runtime()]),
        (ood, [TestInputs(), Runtime()]),
    ],
)
def test_options_that_are_not_given_make_the_defaults_of_the_library(command, values):
    found = {}

    def take(**arguments):
        found.update(arguments)

    take.__annotations__ = get_type_hints(command.command, include_extras=True)
    take.__signature__ = inspect.signature(command.command)
    run = guarded(take)
    run(**{name: option.default for name, option in inspect.signature(run).parameters.items()})
    assert [value for value in found.values() if isinstance(value, Measurement | Runtime | TestInputs)] == values


def test_an_error_is_two_lines_on_stderr(tmp_path):
    done = run("apply", tmp_path, "--negate", "v.safetensors")
    assert done.returncode == 1
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("hint:  ")


def test_a_current_folder_that_is_gone_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert invoke("inspect", "v.safetensors").exit_code == 1
    assert "the current folder no longer exists" in capsys.readouterr().err + invoke("inspect", "v.safetensors").stderr


def test_memory_that_runs_out_is_no_fault(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("taskarith.inspection.inspect.inspect", fail)
    done = invoke("inspect", "v.safetensors")
    assert (done.exit_code, done.stderr.splitlines()[0]) == (1, "error: memory ran out")


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone", "in/base"), MemoryError(), KeyError("x")], ids=repr)
def test_what_is_kept_is_said_whatever_ended_the_run(monkeypatch, error):
    def fail(*_, **__):
        error.__notes__ = [KEPT]
        raise error

    monkeypatch.setattr("taskarith.edit.apply.apply", fail)
    done = invoke("apply", "m", "--negate", "v.safetensors")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].endswith(f" {KEPT}")


def test_an_error_that_nobody_expected_is_two_lines_too_and_its_traceback_is_there_on_demand(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyError("a fault")

    monkeypatch.setattr("taskarith.inspection.inspect.inspect", fail)
    done = invoke("inspect", "v.safetensors")
    assert done.exit_code == 1
    assert re.fullmatch(
        r"error: unexpected KeyError: 'a fault' \(test_guard.py, line \d+\)\nhint:  This is a fault in taskarith. .*\n",
        done.stderr,
    )
    assert "Traceback" in invoke("apply", "m", "--negate", "v.safetensors", "--verbose").stderr
    wanted = [invoke("inspect", "v", "-v")]
    monkeypatch.setenv("TASKARITH_DEBUG", "1")
    for one in [*wanted, invoke("inspect", "v")]:
        assert "Traceback (most recent call last)" in one.stderr
        assert one.stderr.endswith("--verbose.\n")
