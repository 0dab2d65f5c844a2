"""What the process of a command needs: streams that are open, and Ctrl-C at the right time."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
import time

import pytest

from taskarith.cli.process import end_on_interrupt, interruptible, save_time

CALL = "import taskarith.__main__ as program, sys; sys.argv = ['taskarith', *sys.argv[1:]]; "


def call(code, *words, **options):
    command = [sys.executable, "-c", CALL + code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("closed", [(1,), (1, 2), (0, 1, 2)])
def test_no_file_gets_the_number_of_a_closed_stream(tmp_path, closed):
    code = (
        "import typer; from taskarith.cli import main\n"
        "words = lambda: str(print('x')) and str(sys.stderr.write('y'))\n"
        f"main.app = lambda: open({str(tmp_path / 'file')!r}, 'w').write(words())\n"
        "program.main()"
    )
    done = call(code, preexec_fn=lambda: [os.close(number) for number in closed])
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "1"


def test_ctrl_c_before_a_command_is_at_work_ends_in_silence():
    code = (
        "import os, signal; from taskarith.cli import main\nmain.app = lambda: os.kill(os.getpid(), 2)\nprogram.main()"
    )
    setup = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    done = call(code, **setup)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}  # as in the background
    assert call(code, **ignored).returncode == 0


def test_ctrl_c_raises_while_a_command_is_at_work(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        end_on_interrupt()
        with pytest.raises(KeyboardInterrupt), interruptible():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_the_middle_of_an_import_waits_for_its_end(tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text(
        "import signal\n"
        "class Descriptor:\n"
        "    def __set_name__(self, owner, name):\n"  # Python 3.11 makes a RuntimeError of what is raised here
        "        signal.raise_signal(signal.SIGINT)\n"
        "class Slow:\n"
        "    name = Descriptor()\n"
        "done = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def work():
        importlib.import_module("slow_to_import")
        time.sleep(60)

    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), interruptible():
            work()
        assert sys.modules["slow_to_import"].done
        with interruptible():  # and what has ended in the meantime is not interrupted any more
            del sys.modules["slow_to_import"]
            importlib.import_module("slow_to_import")
        time.sleep(0.2)
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_destructor_comes_again(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda ignored: told.append(ignored.exc_type))

    class Interrupted:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    class Failing:
        def __del__(self):
            raise ValueError("a fault of somebody else")

    def work(one):
        del one
        time.sleep(60)

    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), interruptible():
            work(Interrupted())
        assert told == []
        with interruptible():
            Failing()
        assert told == [ValueError]
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_command_says_nothing_of_kernels_that_are_not_installed():
    code = "import logging\nfrom taskarith.cli.process import escape_logs\nescape_logs()\n"
    code += "import peft, bitsandbytes.backends.cpu.ops as ops\nops.logger.error('what matters')\n"
    code += "ops.logger.warning('Failed to load CPU gemm_4bit_forward from kernels-community')"
    assert call(code).stderr == "what matters\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_threads_wait_as_somebody_says_or_as_pays(monkeypatch, given, expected):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # known to monkeypatch, which takes back what the call sets
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    thresholds = gc.get_threshold()
    try:
        save_time()
        assert gc.get_threshold()[0] > thresholds[0]
    finally:
        gc.set_threshold(*thresholds)
    assert {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ} == expected
