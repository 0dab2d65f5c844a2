"""The documentation is true: every option is in it, every command in it runs, and every link leads somewhere."""

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
import yaml
from preloaded import preloaded_command

from docs.tools.hooks import OUTSIDE as OUTSIDE_PATTERNS
from docs.tools.reference import PAGES as WRITERS
from taskarith.checkpoints.header import read_header
from taskarith.cli.aliases import alias_keys
from taskarith.cli.main import app
from taskarith.merging.methods import METHODS
from taskarith.vectors.file import FORMAT

ROOT = Path(__file__).parent.parent
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
OUTSIDE = {path for pattern in OUTSIDE_PATTERNS for path in ROOT.glob(pattern)}


def leaves(nav) -> list[str]:
    """Return the files of the navigation in the order in which they are read."""
    if isinstance(nav, str):
        return [nav]
    return [leaf for part in (nav if isinstance(nav, list) else nav.values()) for leaf in leaves(part)]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def where(leaf: str) -> Path:
    inside = ROOT / "docs" / leaf
    return inside if inside.exists() else ROOT / leaf


PAGES = [ROOT / "README.md", *map(where, leaves(SITE["nav"]))]
OURS = [page for page in PAGES if page.parent == ROOT or ROOT / "docs" in page.parents]
"""Pages whose blocks are run: the others describe measurements."""
BLOCKS = [
    (page.relative_to(ROOT).as_posix(), language, text)
    for page in OURS
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize("page", WRITERS)
def test_the_reference_is_what_the_code_says(page):
    if f"typer=={typer.__version__}" not in text_of(ROOT / "constraints.txt").split():
        pytest.skip(f"the reference is written with the tested versions, and typer {typer.__version__} says less")
    assert text_of(ROOT / "docs/reference" / page) == WRITERS[page](), "run: make reference"


def test_every_option_the_pages_name_exists():
    commands = typer.main.get_command(app).commands.values()
    known = {text for c in commands for p in c.params for text in (*p.opts, *p.secondary_opts)}
    known |= {f"--{key}" for c in commands for key in alias_keys(c.params)}
    known |= {
        "--help",
        "--version",
        "--install-completion",
        "--rm",
        "--read-only",
        "--user",
    }  # the last three of docker
    known |= {"--no-deps", "--outfile", "--enable-lora", "--lora-modules"}  # of pip, llama.cpp and vLLM
    for page in OURS:
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text_of(page))) - known == set(), page


def test_every_merge_method_is_described():
    page = text_of(ROOT / "docs/reference/methods.md")
    assert [name for name in METHODS if f"`{name}`" not in page] == []


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150


def test_the_navigation_names_every_page():
    there = {*(ROOT / "docs").rglob("*.md")} | {path for path in OUTSIDE if path.suffix == ".md"}
    assert sorted(PAGES[1:]) == sorted(there)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as mkdocs makes them."""
    plain = re.sub(r"^```.*?^```", "", text_of(path), flags=re.MULTILINE | re.DOTALL)
    heads = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", head) for head in re.findall(r"^#+ (.*)", plain, re.MULTILINE)]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text_of(page)):
        path = (page.parent / target).resolve() if target else page
        assert path.is_file(), target
        assert page == PAGES[0] or ROOT / "docs" in path.parents or path in OUTSIDE, f"{target} is not on the site"
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@pytest.fixture
def stranger(tmp_path, phi, tmp_path_factory):
    """A folder with the demo's model, three texts and a copy of TOFU, and a hub cache; both models are a tiny Phi."""
    commit = "f" * 40
    repository = tmp_path / "hub" / "models--microsoft--phi-1_5"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(phi, repository / "snapshots" / commit)
    work = tmp_path / "work"
    work.mkdir()
    shutil.copytree(phi, work / "smollm2-135m")
    for name, seed in (("forget", 1), ("retain", 2), ("holdout", 3)):
        (work / f"{name}.txt").write_text(tiny.text(60, seed), encoding="utf-8")
    layouts.write_tofu(work / "TOFU")
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "COLUMNS": "200"}
    with preloaded_command(tmp_path_factory.mktemp("command"), environment) as commands:
        path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
        yield work, environment | {"PATH": path}


def test_every_block_runs(stranger):
    """The blocks of all pages in the order of the navigation, in one folder: later pages use what earlier ones made."""
    work, environment = stranger
    seen: set[str] = set()
    for page, language, text in BLOCKS:
        if language == "console":  # how to install, and the files that this test has already
            assert re.fullmatch(r"(\$ (make|pip|ln|cp) .*\n)+", text), text
        if language not in {"bash", "python"} or seen >= set(text.splitlines()):
            continue  # the tutorial explains the commands of the README one by one
        seen |= set(text.splitlines())
        start = ["bash", "-eu", "-c"] if language == "bash" else [sys.executable, "-c"]
        done = subprocess.run([*start, text], cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page}\n{text}\n{done.stdout}\n{done.stderr}"
    assert len(seen) > 50
    page = text_of(ROOT / "docs/reference/files.md")
    keys = written_keys(work)
    assert len(keys) > 90
    assert sorted(key for key in keys if f"`{key}`" not in page) == []


def written_keys(folder: Path) -> set[str]:
    """Return the keys of all records and results below a folder, and of the metadata of its vectors."""
    found: set[str] = set()
    for path in (path for name in ("taskarith.json", "results.json") for path in folder.rglob(name)):
        record = json.loads(text_of(path))
        inner = [*record.get("operands", []), *list(record.get("tensors", {}).values())[:1]]
        found = found.union(record, {record["kind"]} if "kind" in record else (), *inner)
    for path in folder.rglob("records.jsonl"):
        for record in map(json.loads, text_of(path).splitlines()):
            found = found.union(record, {record["kind"]})
    for path in folder.rglob("*.safetensors"):
        metadata = read_header(path).metadata
        if metadata.get("format") == FORMAT:
            found |= metadata.keys()
    return found


def test_the_modules_and_names_of_the_architecture_page_exist():
    page = text_of(ROOT / "docs/architecture.md")
    modules = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", page))
    assert len(modules) > 20
    for module in modules:
        assert any((ROOT / folder / module).is_file() for folder in ("taskarith", "")), module
    for name, module in re.findall(r"`(\w+)` \(`([a-z_/]+\.py)`\)", page):
        assert re.search(rf"\b{name}\b", text_of(ROOT / "taskarith" / module)), f"{name} of {module}"


def test_the_tree_of_the_architecture_page_is_the_tree():
    named = set(re.findall(r"^  ([a-z_]+(?:/|\.py))", text_of(ROOT / "docs/architecture.md"), re.MULTILINE))
    entries = [p for p in (ROOT / "taskarith").iterdir() if not p.name.startswith("__")]
    there = {f"{p.name}/" for p in entries if p.is_dir()} | {p.name for p in entries if p.suffix == ".py"}
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
