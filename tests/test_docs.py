"""The documentation is true: every option is in it, and every command in it runs."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import layouts
import pytest
import tiny
import typer
from preloaded import preloaded_command

from taskarith.cli.main import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def reference() -> str:
    """Write the tables of the reference from the commands themselves."""
    lines = []
    for name, command in typer.main.get_command(app).commands.items():
        usage = " ".join(p.metavar or p.name.upper() for p in command.params if p.param_type_name == "argument")
        lines += [
            f"### `taskarith {name}{' ' + usage if usage else ''}`",
            "",
            "| option | meaning | default |",
            "|---|---|---|",
        ]
        for parameter in command.params:
            if parameter.param_type_name != "option" or parameter.name in {"config", "as_json", "quiet"}:
                continue
            names = ", ".join(f"`{text}`" for text in (*parameter.opts, *parameter.secondary_opts))
            default = parameter.default
            shown = "" if default in (None, False, ()) or callable(default) else f"`{default}`"
            lines.append(f"| {names} | {parameter.help.replace('|', chr(92) + '|')} | {shown} |")
        lines.append("")
    return "\n".join(lines)


def test_the_reference_is_what_the_commands_say():
    start = README.index("### `taskarith finetune")
    assert README[start : README.index("## Licence")].strip() == reference().strip()


def test_every_option_the_readme_names_exists():
    known = {
        text
        for c in typer.main.get_command(app).commands.values()
        for p in c.params
        for text in (*p.opts, *p.secondary_opts)
    }
    known |= {"--help", "--version", "--rm", "--read-only", "--user"}  # the last three of docker
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", README)) - known == set()


@pytest.fixture
def stranger(tmp_path, phi, tmp_path_factory):
    """A folder with three texts and a copy of TOFU, and a hub cache in which the reference model is a tiny Phi."""
    commit = "f" * 40
    repository = tmp_path / "hub" / "models--microsoft--phi-1_5"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(phi, repository / "snapshots" / commit)
    work = tmp_path / "work"
    work.mkdir()
    for name, seed in (("forget", 1), ("retain", 2), ("holdout", 3)):
        (work / f"{name}.txt").write_text(tiny.text(60, seed), encoding="utf-8")
    layouts.write_tofu(work / "TOFU")
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "COLUMNS": "200"}
    with preloaded_command(tmp_path_factory.mktemp("command"), environment) as commands:
        path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
        yield work, environment | {"PATH": path}


def test_every_block_of_the_readme_runs(stranger):
    work, environment = stranger
    ran = 0
    for language, text in BLOCKS:
        if language == "console":  # make and pip: what runs this test
            assert re.fullmatch(r"(\$ (make|pip) .*\n)+", text), text
            continue
        start = ["bash", "-eu", "-c"] if language == "bash" else [sys.executable, "-c"]
        done = subprocess.run([*start, text], cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran == sum(language in {"bash", "python"} for language, _ in BLOCKS) > 3


def test_every_link_of_the_readme_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_tree_of_the_readme_is_the_tree():
    named = set(re.findall(r"^      ([a-z_]+(?:/|\.py))", README, re.MULTILINE))
    there = {
        f"{p.name}/" if p.is_dir() else p.name for p in (ROOT / "taskarith").iterdir() if not p.name.startswith("__")
    }
    assert named == there


def test_the_dockerfile_names_what_there_is():
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    steps = [line.partition(" ")[::2] for line in text.splitlines() if re.match("[A-Z]+ ", line)]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    copied = set()
    for words in (rest.split() for step, rest in steps if step == "COPY"):
        assert words[0] == "--chown=taskarith"
        copied |= set(words[1:-1])
    assert all((ROOT / name).exists() and name not in ignored for name in copied)
    assert copied >= {
        "constraints.txt",
        "taskarith",
        project["readme"],
        *project["license-files"],
    }
    assert dict(steps)["ENTRYPOINT"] == json.dumps([*project["scripts"]])
    run = " ".join(rest for step, rest in steps if step == "RUN")
    root = run.partition("python3 -m venv")[0]  # the steps before USER
    for place in [rest for step, rest in steps if step == "WORKDIR"]:
        assert re.search(rf"chown taskarith [^&]*{place}( |$)", root), f"{place} would be root's"
    model = re.search(r"DEMO_MODEL := (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert f"--no-deps {model[1]}" in run
    for code in re.findall(r"python -c '([^']+)'", run):
        compile(code, "Dockerfile", "exec")
        for module, names in re.findall(r"from (\S+) import ([\w, ]+)", code):
            assert all(hasattr(importlib.import_module(module), name.strip()) for name in names.split(","))


def test_every_line_of_the_security_page_names_modules_and_tests_that_exist():
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!what \||-)(.*) \|$", page, re.MULTILINE)
    assert len(rows) > 10
    for row in [*rows, page]:
        tests = re.findall(r"`(?:tests/)?([\w/]*test_\w+\.py)::(\w+)`", row)
        assert tests, row
        for file, name in tests:
            assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), name
        for module in re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", row):
            assert (ROOT / "taskarith" / module).is_file(), module
