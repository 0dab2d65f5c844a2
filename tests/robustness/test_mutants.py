"""Mutation testing: what is changed in a source, and that killed and surviving mutants are told apart."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.robustness.mutations import mutants_of

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("a < b", ["`a < b` to `a <= b`"]),
        ("a and b", ["`a and b` to `a or b`"]),
        ("not a", ["`not a` to `a`"]),
        ("a - b", ["`a - b` to `a + b`"]),
        ("x = 3", ["`3` to `4`"]),
        ("x = 'key'", ["`'key'` to `'key_'`"]),
        ("f(a, key=b)", ["`f(a, key=b)` to `f(a)`", "`f(a, key=b)` to `pass`"]),
        ("f(a, hint=b)", ["`f(a, hint=b)` to `pass`"]),
        ("return x", ["`return x` to `return None`"]),
        ("if a:\n  raise UsageError('a word')", ["`a` to `not a`", "`raise UsageError('a word')` to `pass`"]),
        ("[a for a in b if a]", ["`a` to `True`"]),
        ("x.y += 2", ["`x.y += 2` to `pass`", "`x.y += 2` to `x.y -= 2`", "`2` to `3`"]),
        ("x: list[3] = y", []),
        ("'''A word.'''", []),
        ("__all__ = ['f']", []),
        ("_BLOCK = 512", []),
        ("listener.note('compiling')", []),
        ("raise AssertionError('a word')", []),
    ],
)
def test_a_place_is_changed_as_a_slip_would(tmp_path, line, changes):
    text = "def f():\n" + "".join(f"    {one}\n" for one in line.split("\n"))
    (tmp_path / "m.py").write_text(text)
    found = mutants_of("m.py", tmp_path)
    assert sorted(one.change for one in found) == sorted(changes)
    sources = [one.source(tmp_path) for one in found]
    assert len({*sources, text}) == len(sources) + 1
    for source in sources:
        compile(source, "m.py", "exec")


_SOURCE = """
LIMIT = 3

def share(count, total):
    if total < 1:
        return 0
    return count / total

def never():
    return 7
"""
_TEST = """
from sums import LIMIT, share

def test_share():
    assert share(1, 2) == 0.5
    assert share(1, 0) == 0
    assert LIMIT == 3
"""
_RUN = """
import json, sys, time
from pathlib import Path
from benchmarks.robustness.mutants import Bench, try_package
root, work = map(Path, sys.argv[1:])
bench = Bench(root, work, ["test_sums"])
assert bench.fork(lambda: time.sleep(60), 0.2) < 0
bench.measure()
json.dump(try_package(bench, "sums.py", 0, seed=1), (work / "found.json").open("w"))
"""


def test_killed_and_surviving_mutants_are_told_apart(tmp_path):
    (tmp_path / "root/tests").mkdir(parents=True)
    (tmp_path / "root/sums.py").write_text(_SOURCE)
    (tmp_path / "root/tests/test_sums.py").write_text(_TEST)
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    subprocess.run([sys.executable, "-c", _RUN, tmp_path / "root", tmp_path / "work"], check=True, env=environment)
    found = json.loads((tmp_path / "work/found.json").read_text())
    assert [(what.partition(" ")[2], how) for _, what, how in found["survivors"]] == [
        ("never: `7` to `8`", "no test runs it"),
        ("never: `return 7` to `return None`", "no test runs it"),
        ("share: `1` to `2`", "1 tests pass"),
        ("share: `total < 1` to `total <= 1`", "1 tests pass"),
    ]
    assert found["killed"] + 4 == found["tried"] == found["mutants"] == 8
    assert (tmp_path / "work/tree/sums.py").read_text() == _SOURCE
