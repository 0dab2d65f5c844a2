"""The kernels' object code: compiled once, kept, checked, and loaded without numba."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from taskarith.arithmetic.calculator import Recipe, Term
from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.arithmetic.kernels import available
from taskarith.arithmetic.kernels import compile as compiled
from taskarith.arithmetic.parallel import Workers, new_calculator, work_through
from taskarith.arithmetic.torch import TorchCalculator
from taskarith.checkpoints.cache import cache_folders, keep_file, locked_folder, writable_caches

LOAD = """
import sys
from taskarith.arithmetic.kernels.compile import load_kernels
from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.arithmetic.calculator import Recipe, Term
calculator = CpuCalculator(4, ("linear",))
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


BEGIN = """
from taskarith.arithmetic.kernels.compile import NotYetError, load_kernels
for _ in range(2):
    try:
        load_kernels("low_rank", "linear", wait=False)
    except NotYetError:
        print("not yet")
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache with the kernels that a process compiled which outlived the one that asked for some of them."""
    cache = tmp_path_factory.mktemp("cache")
    environment = os.environ | {"TASKARITH_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", BEGIN], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["not yet", "not yet", ""]
    assert done.stderr == ""
    for _ in range(3000):
        found = sorted(cache.glob("kernels/*.o"), key=lambda path: path.stat().st_mtime_ns)
        if len(found) == len(compiled.GROUPS):
            assert [path.name.partition("-")[0] for path in found[:2]] == ["low_rank", "linear"]  # what was asked for
            return cache
        time.sleep(0.1)
    pytest.fail("nothing was compiled within five minutes")


def test_later_runs_need_neither_numba_nor_numpy(filled):
    assert load(filled) == ["loaded", "False"]


def test_torch_calculates_until_the_kernels_are_there_and_they_do_from_then_on(filled, tmp_path, monkeypatch):
    """Within one run, and to the same bits; the process that compiles is started once."""
    started, listener, (file,) = [], Listener(), (filled / "kernels").glob("linear-*")
    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled, "_loaded", compiled.Kernels())
    monkeypatch.setattr(compiled, "_begun", [])
    monkeypatch.setattr(compiled, "_children", [])
    monkeypatch.setattr(available, "_found", {})
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command))
    seen = []

    def do(task, calculator, stop):
        seen.append((type(calculator), available.load_or_none("linear") is not None))
        calculator.begin(Recipe(("F32", "F32"), (Term(0.5, 1),), "F32"))
        calculator.room(0, 1)[:], calculator.room(1, 1)[:] = b"\0\0\x80\x3f", b"\0\0\0\x40"
        assert bytes(calculator.linear(0, 1)[0]) == b"\0\0\0\x40"  # 1 + 0.5 * 2
        if task == 1:
            (tmp_path / "kernels").mkdir(exist_ok=True)
            (tmp_path / "kernels" / file.name).write_bytes(file.read_bytes())
        return 1

    listener.progress = lambda *_: None
    work_through(range(4), do, listener, "testing", 4, Workers(chunk=4, count=1))
    assert seen == [(TorchCalculator, False)] * 2 + [(CpuCalculator, True)] * 2
    assert len(started) == len(listener.notes) == 1
    assert "in the background" in listener.notes[0]


class Listener:
    def __init__(self):
        self.notes = []

    def progress(self, what, done, total):
        raise AssertionError(f"nothing to count: {what} {done} {total}")

    def note(self, message):
        self.notes.append(message)


def test_a_spoiled_file_is_compiled_again_and_that_is_said(filled, tmp_path, monkeypatch):
    listener = Listener()
    (file,) = (filled / "kernels").glob("linear-*")
    whole, copy = file.read_bytes(), tmp_path / "kernels" / file.name
    copy.parent.mkdir()
    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path))
    compilations = []
    monkeypatch.setattr(compiled, "_compile", lambda *_: compilations.append(1) or whole[16:])
    for spoiled in (b"", whole[:-1], whole[:99] + b"?" + whole[100:]):
        copy.write_bytes(spoiled)
        monkeypatch.setattr(compiled, "_loaded", compiled.Kernels())
        for _ in range(2):
            compiled.load_kernels("linear", listener=listener)
        assert copy.read_bytes() == whole
    assert len(compilations) == len(listener.notes) == 3
    assert str(copy.parent) in listener.notes[0]
    monkeypatch.setattr(compiled, "_loaded", compiled.Kernels())
    new_calculator(listener=listener)  # nothing is to be compiled
    assert len(compilations) == len(listener.notes) == 3


def test_where_no_process_can_be_started_torch_calculates(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled, "_loaded", compiled.Kernels())
    monkeypatch.setattr(compiled, "_begun", [])
    monkeypatch.setattr(subprocess, "Popen", fail)
    for _ in range(2):
        assert isinstance(new_calculator(), TorchCalculator)


@pytest.fixture
def unwritable(tmp_path, monkeypatch):
    """A cache whose folders cannot be made, whoever tries it; and temporary folders that lie elsewhere."""
    (tmp_path / "file").write_text("a file where a folder is wanted", encoding="utf-8")
    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("taskarith.checkpoints.cache._SHARED", ())
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    monkeypatch.setattr(compiled, "_loaded", compiled.Kernels())
    monkeypatch.setattr(compiled, "_nowhere", [])
    return tmp_path


def test_nothing_is_compiled_for_one_command_alone(unwritable, monkeypatch):
    listener = Listener()
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("compiled in vain"))
    for _ in range(2):
        assert isinstance(new_calculator(listener=listener), TorchCalculator)
    (note,) = listener.notes
    assert "torch calculates" in note
    assert "TASKARITH_CACHE" in note


def test_a_folder_of_the_user_alone_is_taken_where_the_cache_cannot_be_written(unwritable, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(unwritable))
    own = unwritable / f"taskarith-{os.getuid()}"
    assert list(writable_caches("kernels")) == [own / "kernels"]
    assert own.stat().st_mode & 0o777 == 0o700
    assert cache_folders("kernels")[1:] == [own / "kernels"]
    own.chmod(0o777)  # others may have put code into it
    assert list(writable_caches("kernels")) == []
    assert cache_folders("kernels")[1:] == []


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"TASKARITH_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"TASKARITH_CACHE": "", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/taskarith"),
        ({"XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/taskarith"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/c"}, "/c/.cache/taskarith"),
        ({}, None),
    ],
)
def test_where_the_cache_is(monkeypatch, environment, folder):
    def no_user(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", no_user)
    monkeypatch.setattr("taskarith.checkpoints.cache._SHARED", ())
    for name in ("TASKARITH_CACHE", "XDG_CACHE_HOME", "HOME", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert [str(path) for path in cache_folders("gguf")] == ([f"{folder}/gguf"] if folder else [])


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_what_is_kept_follows_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        assert keep_file(tmp_path / "a" / "b", b"data")
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o666 & ~mask
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert not keep_file(tmp_path / "a" / "b" / "c", b"data")


def test_of_two_cold_starts_one_compiles(filled, tmp_path, monkeypatch):
    listener, (file,) = Listener(), (filled / "kernels").glob("linear-*")
    whole, copy = file.read_bytes(), tmp_path / "kernels" / file.name
    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled, "_loaded", compiled.Kernels())
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("compiled twice"))
    copy.parent.mkdir()
    with locked_folder(copy.parent, lambda: pytest.fail("nobody else has it")):
        other = threading.Thread(target=compiled.load_kernels, args=("linear",), kwargs={"listener": listener})
        other.start()
        while not listener.notes:
            time.sleep(0.01)
        copy.write_bytes(whole)
    other.join()
    assert "waiting for another process" in listener.notes[0]
    assert len(listener.notes) == 1
    assert "linear" in compiled._loaded


def test_a_function_of_another_group_is_loaded_when_it_is_called(filled, monkeypatch):
    monkeypatch.setenv("TASKARITH_CACHE", str(filled))
    monkeypatch.setattr(compiled, "_loaded", compiled.Kernels())
    kernels = compiled.load_kernels("linear")
    assert "merge" not in kernels
    assert kernels.draw(0, 0, 0, 0) == 0
    assert "merge" in kernels
    with pytest.raises(AttributeError):
        kernels.nonsense  # noqa: B018
