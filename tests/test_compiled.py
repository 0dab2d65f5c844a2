"""The kernels' object code: compiled once, kept, checked, and loaded without numba."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from taskarith.arithmetic.compiled import are_compiled, load_kernels
from taskarith.arithmetic.parallel import new_calculator

LOAD = """
import sys
from taskarith.arithmetic.compiled import load_kernels
from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.arithmetic.recipe import Recipe, Term
calculator = CpuCalculator(4)
calculator.begin(Recipe(("F32", "F32"), (Term(0.5, 1),), "F32"))
calculator.room(0, 1)[:], calculator.room(1, 1)[:] = b"\\0\\0\\x80\\x3f", b"\\0\\0\\0\\x40"
assert bytes(calculator.linear(0, 1)[0]) == b"\\0\\0\\0\\x40"  # 1 + 0.5 * 2
print("compiled" if "numba" in sys.modules else "loaded", "numpy" in sys.modules)
"""


def load(cache):
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env=os.environ | {"TASKARITH_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache with the kernels of one run, which had to compile them."""
    cache = tmp_path_factory.mktemp("cache")
    assert load(cache)[0] == "compiled"
    return cache


def test_later_runs_need_neither_numba_nor_numpy(filled):
    assert load(filled) == ["loaded", "False"]


def test_it_works_where_nothing_can_be_kept(tmp_path):
    (tmp_path / "kernels").write_text("a file where a folder is wanted", encoding="utf-8")
    assert load(tmp_path)[0] == "compiled"
    assert [path.name for path in tmp_path.iterdir()] == ["kernels"]


class Listener:
    def __init__(self):
        self.notes = []

    def progress(self, what, done, total):
        raise AssertionError(f"nothing to count: {what} {done} {total}")

    def note(self, message):
        self.notes.append(message)


def test_a_spoiled_file_is_compiled_again_and_that_is_said_once(filled, tmp_path, monkeypatch):
    listener = Listener()
    new_calculator("cpu", 4, listener)
    assert listener.notes == []
    (file,) = (filled / "kernels").iterdir()
    whole, copy = file.read_bytes(), tmp_path / "kernels" / file.name
    copy.parent.mkdir()
    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path))
    load_kernels.cache_clear()
    for spoiled in (b"", whole[:-1], whole[:99] + b"?" + whole[100:]):
        copy.write_bytes(spoiled)
        assert not are_compiled()
    for _ in range(2):
        new_calculator("cpu", 4, listener)
    assert len(listener.notes) == 1
    assert "once" in listener.notes[0]
    load_kernels.cache_clear()
    assert are_compiled()  # the file is whole again
