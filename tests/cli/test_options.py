"""Options that several commands share: one help each, and the values that they make."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import invoke, run

from taskarith.cli.main import app
from taskarith.evaluation.measurement import EvaluationKeywords, Measurement, MeasurementKeywords
from taskarith.models.runtime import Runtime, RuntimeKeywords
from taskarith.relations.inputs import InputKeywords, TestInputs

OTHERS = {"alpha", "bits", "block_size", "data", "dtype", "model", "output_dir", "plot", "rank", "retain", "seed"}
OTHERS |= {"beta", "config", "draws", "forget", "gamma", "learning_rate", "lora", "output_file", "prompts", "weights"}
OTHERS |= {"base", "budget", "dry_run", "overwrite", "quick", "reference"}
"""Options that mean or do another thing in another command."""

COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize(
    ("kind", "keywords"),
    [(Runtime, RuntimeKeywords), (Measurement, EvaluationKeywords), (TestInputs, InputKeywords)],
)
def test_keywords_of_verbs_are_the_fields_of_their_values(kind, keywords):
    fields, runtime = ({one.name: one.type for one in dataclasses.fields(value)} for value in (kind, Runtime))
    typed = {name: getattr(one, "__forward_arg__", one) for name, one in keywords.__annotations__.items()}
    assert {name: str(one) for name, one in typed.items()} == fields | runtime
    assert MeasurementKeywords.__optional_keys__ < EvaluationKeywords.__optional_keys__


def test_an_option_that_several_commands_have_is_described_alike():
    helps = {}
    for command in COMMANDS.values():
        for option in command.params:
            if option.param_type_name == "option" and option.name not in OTHERS:
                helps.setdefault(option.name, set()).add(option.help)
    assert {name: texts for name, texts in helps.items() if len(texts) > 1} == {}
    assert len(helps) > 50


def test_a_batch_size_that_is_no_number_is_refused(tmp_path):
    result = invoke("eval", "absent", "--data", "forget=gone.txt", "--batch-size", "many")
    assert (result.exit_code, result.stdout) == (2, "")
    assert (
        result.stderr
        == "error: --batch-size many is not a positive integer\nhint:  Give a positive integer, or auto.\n"
    )


def bash(script, home):
    """Run a script of bash in which the command is found, in a home of its own."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "HOME": str(home)}
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True).stdout


def test_bash_completes_with_the_script_that_is_printed_or_installed(tmp_path):
    complete = 'COMP_WORDS=(taskarith ver) COMP_CWORD=1; _taskarith_completion taskarith; echo "${COMPREPLY[@]}"'
    assert bash(f'eval "$(taskarith --show-completion)"; {complete}', tmp_path) == "verify\n"
    assert list(tmp_path.iterdir()) == []
    bash("taskarith --install-completion; true", tmp_path)
    assert bash(f". ~/.bashrc; {complete}", tmp_path) == "verify\n"


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("ver", "verify\tCheck an output against its record, and recompute a sample."),
        ("eval --gradient-", "--gradient-norms\t"),
    ],
)
def test_fish_completes_commands_and_options(typed, found):
    variables = {"_TASKARITH_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = run(_TYPER_COMPLETE_ARGS=f"taskarith {typed}", **variables)
    assert done.stdout.startswith(found), done.stderr
    assert len(done.stdout.splitlines()) == 1
