"""A command ``taskarith`` that starts at once: copies of one process that has imported what all commands import.

Each command runs as it is installed, through ``taskarith.__main__.main``, with its own folder, environment and streams;
only the seconds of importing torch and transformers are spared, which tests of many commands would pay each time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    said = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(connection, [len(said).to_bytes(8, "big")], [0, 1, 2])
    connection.sendall(said)
    code = connection.recv(1)
sys.exit(code[0] if code else 70)  # nothing comes from a command that was killed
"""


@contextmanager
def preloaded_command(folder: Path, environment: dict[str, str]) -> Generator[Path]:
    """Give a folder for the PATH that holds ``taskarith``.

    :param folder: An empty folder.
    :param environment: In which the imports take place.
    """
    address, command = str(folder / "socket"), folder / "bin" / "taskarith"
    command.parent.mkdir()
    command.write_text(_CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
    command.chmod(0o755)
    words = [sys.executable, __file__, address]
    with subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        try:
            yield command.parent
        finally:
            server.kill()


def _serve(address: str) -> None:
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import peft  # noqa: F401

    import taskarith.cli.main  # noqa: F401

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
    from taskarith.__main__ import main

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
    sys.argv = ["taskarith", *words]
    code: object = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.send(bytes([code & 255 if isinstance(code, int) else int(code is not None)]))
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
