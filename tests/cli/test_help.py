"""What `--help` prints: every command and every option, under headings, in whole sentences."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import typer
from commands import invoke

from taskarith.cli.main import app

COMMANDS = [
    "unlearn",
    "finetune",
    "extract",
    "combine",
    "importance",
    "apply",
    "undo",
    "clean",
    "env",
    "push",
    "verify",
    "inspect",
    "diff",
    "eval",
    "score",
    "attack",
    "report",
    "relate",
    "ood",
    "sweep",
    "demo",
]
REGISTERED = typer.main.get_command(app).commands


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom taskarith.cli.main import app\nfrom typer.testing import CliRunner\n"
        "for command in ([], *[[c] for c in sys.argv[1:]]):\n"
        "    assert CliRunner().invoke(app, [*command, '--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, *COMMANDS], check=True)


def test_every_command_says_what_it_does():
    whole = invoke("--help").stdout
    for command in COMMANDS:
        assert command in whole
        text = invoke(command, "--help").stdout
        assert f"taskarith {command}" in text  # the example


def test_every_option_is_documented_in_kebab_case():
    for name, command in REGISTERED.items():
        assert name in COMMANDS
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, f"{name}: {parameter.name} has no help"
                assert all(re.fullmatch(r"--?[a-z0-9]+(-[a-z0-9]+)*", text) for text in parameter.opts), parameter.opts


def test_help_shows_every_command_under_its_heading_in_one_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    sections = invoke("--help").stdout.split("\n\n")
    found = {section.partition(":\n")[0]: section.splitlines()[1:] for section in sections if ":\n" in section}
    shown = {heading: [line.split()[0] for line in lines] for heading, lines in found.items()}
    assert shown.pop("Options")
    assert shown == {
        "Edit a model": ["unlearn", "finetune", "extract", "combine", "apply", "demo"],
        "Choose coefficients": ["sweep", "relate", "ood", "importance"],
        "Measure and attack": ["eval", "score", "attack", "report"],
        "Look, check, undo": ["inspect", "diff", "verify", "undo", "clean", "push", "env"],
    }
    for heading in shown:
        for line in found[heading]:
            name, description = line.split(maxsplit=1)
            assert description == f"{inspect.cleandoc(REGISTERED[name].help).splitlines()[0]}"
            assert description.endswith((".", ")."))


def test_help_of_a_command_shows_its_options_under_headings():
    text = invoke("sweep", "--help").stdout
    headings = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert headings == ["Arguments", "Data", "Edit", "Merge method", "Choose", "Search", "Measure", "Model", "Options"]
    for option in REGISTERED["sweep"].params:
        assert option.param_type_name == "argument" or f" {option.opts[-1]}" in text
