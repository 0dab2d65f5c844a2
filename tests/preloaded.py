"""Commands that start at once: copies of one process that has imported what all of them import.

``taskarith`` runs as it is installed, through ``taskarith.__main__.main``, and ``preloaded-python`` takes ``-c CODE``
or ``-m MODULE``. Each has its own folder, environment and streams; only the seconds of importing torch and transformers
are spared, which tests of many commands would pay each time.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PATIENCE = 500  # seconds, less than the time limit of a test
_IMPORTED = ("accelerate", "datasets", "matplotlib.figure", "nltk", "peft", "rich.progress", "scipy.stats")
_IMPORTED += ("taskarith.cli.main", "taskarith.evaluation.evaluate", "taskarith.training.finetune")
_CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    said = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(connection, [len(said).to_bytes(8, "big")], [0, 1, 2])
    connection.sendall(said)
    code = connection.recv(1)
sys.exit(code[0] if code else 70)  # nothing comes from a command that was killed
"""


@contextmanager
def preloaded_command(folder: Path, environment: dict[str, str]) -> Generator[Path]:
    """Give a folder for the PATH that holds ``taskarith`` and ``preloaded-python``.

    :param folder: An empty folder.
    :param environment: In which the imports take place.
    """
    address, commands = str(folder / "socket"), folder / "bin"
    commands.mkdir()
    for name in ("taskarith", "preloaded-python"):
        (commands / name).write_text(_CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
        (commands / name).chmod(0o755)
    words = [sys.executable, __file__, address]
    with subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        try:
            yield commands
        finally:
            server.kill()


def run_together(
    processes: int, command: Path, words: Sequence[str], folder: Path, **environment: str
) -> list[subprocess.CompletedProcess[str]]:
    """Run a command in a folder as so many processes on CPUs that find each other, as a launcher would.

    :param command: One that is preloaded.
    :param words: Its arguments.
    :param environment: Additional variables.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"ACCELERATE_USE_CPU": "true"} | environment
    if processes > 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {} for rank in range(processes)]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([command, *words], cwd=folder, env=shared | rank, **streams) for rank in ranks]
    said = [process.communicate(timeout=_PATIENCE) for process in started]
    return [
        subprocess.CompletedProcess(words, process.returncode, *streams)
        for process, streams in zip(started, said, strict=True)
    ]


def _serve(address: str) -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # in each copy gc.collect would look through all of this for half a second
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the copies
        print("ready", flush=True)  # noqa: T201
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _run(connection)
            connection.close()


def _run(connection: socket.socket) -> None:
    signal.alarm(_PATIENCE)  # whoever waited has gone
    size, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
    said = b""
    while len(said) < int.from_bytes(size, "big"):
        said += connection.recv(1 << 20)
    words, folder, environment = json.loads(said)
    for own, given in enumerate(descriptors):
        os.dup2(given, own)
        os.close(given)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(own, "r" if own == 0 else "w", encoding="utf-8") for own in range(3))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code: object = 0
    try:
        _act(*words)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.send(bytes([code & 255 if isinstance(code, int) else int(code is not None)]))
    os._exit(0)


def _act(command: str, *words: str) -> None:
    sys.argv = ["taskarith", *words]
    if Path(command).name == sys.argv[0]:
        from taskarith.__main__ import main

        main()
        return
    kind, given, *sys.argv[1:] = words
    if kind == "-m":
        runpy.run_module(given, run_name="__main__", alter_sys=True)
    else:
        exec(compile(given, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102


if __name__ == "__main__":
    _serve(sys.argv[1])
