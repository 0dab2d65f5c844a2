"""The kernels as functions to call: compiled by numba once a machine, then loaded without it.

They are compiled in groups, of which most commands need one or two. Their object code is kept in the cache and loaded
by llvmlite alone, which takes a tenth of the time that numba needs to start. Compiling all of them takes about a minute
of a core, in a process of its own that outlives the command and begins with the groups that it needs: until these are
there, torch calculates, to the same bits. Where they cannot be kept they are not compiled.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import llvmlite
import llvmlite.binding as llvm
import xxhash

from taskarith.checkpoints.cache import cache_folders, keep_file, locked_folder, writable_caches
from taskarith.progress import SILENT, Listener

__all__ = ["GROUPS", "Kernels", "NotYetError", "NowhereToKeepError", "load_kernels"]

_DIGEST = 16
_KERNELS = "kernels"

GROUPS = {
    "linear": {"linear": "iiiii"},
    "difference": {"difference": "iiiiii"},
    "low_rank": {"low_rank": "idiiii"},
    "merge": {
        "delta": "iiiiiii",
        "draw": "iiii",
        "elect": "iiiiiiii",
        "gram": "iiiiiii",
        "keep": "iiiiiddii",
        "keep_largest": "iiiidii",
        "keep_ranked": "iiiiiidii",
        "near": "iiiiii",
        "products": "iiii",
    },
    "distances": {"distances": "iiiiiii", "sizes": "iiiii"},
    "inner_products": {"inner_products": "iiiiiiii"},
    "exact": {"fold": "iiiiii", "pack": "iiiiiiii", "unfold": "iiiiiii"},
}
"""Functions that are compiled together, with their parameters: i for int64 and addresses, d for float64. All return
int64."""


class NowhereToKeepError(RuntimeError):
    """Kernels are not compiled for one command alone."""


class NotYetError(RuntimeError):
    """A process of its own compiles the kernels."""


class Kernels:
    """The functions of the groups that were loaded; calling one lets other threads run.

    A function of another group is compiled or loaded when it is asked for, whatever that takes.
    """

    def __init__(self) -> None:
        self._engines: dict[str, Any] = {}  # which own the code

    def __contains__(self, group: str) -> bool:
        """Return whether a group was loaded."""
        return group in self._engines

    def __getattr__(self, name: str) -> Any:
        """Return a function that was not loaded."""
        group = next((group for group, functions in GROUPS.items() if name in functions), None)
        if group is None:
            raise AttributeError(name)
        return getattr(load_kernels(group), name)

    def add(self, group: str, engine: Any) -> None:
        """Make the functions of a group callable."""
        kinds = {"i": ctypes.c_int64, "d": ctypes.c_double}
        for name, signature in GROUPS[group].items():
            call = ctypes.CFUNCTYPE(ctypes.c_int64, *(kinds[kind] for kind in signature))
            setattr(self, name, call(engine.get_function_address(name)))
        self._engines[group] = engine


_COMPILE = (
    "import os, sys; os.nice(10); sys.path[:] = {path!r}; from {module} import load_kernels; load_kernels(*{groups!r})"
)

_loaded = Kernels()
"""By this process."""

_nowhere: list[NowhereToKeepError] = []
"""Why nothing is compiled, once that was found."""

_begun: list[bool] = []
"""Whether this process has started one that compiles."""

_children: list[subprocess.Popen[bytes]] = []
"""Nobody waits for it, and it is not to be forgotten: Python would warn."""

_lock = threading.Lock()


def load_kernels(*groups: str, listener: Listener = SILENT, wait: bool = True) -> Kernels:
    """Return the kernels; the first run on a machine compiles them.

    :param groups: What is needed of ``GROUPS``.
    :param listener: Receives a note that they are compiled, that another process does it, or that they cannot be kept.
    :param wait: Compile them here, or wait for another process that does; or let a process do it that goes on when this
        one ends.
    :raises NotYetError: They are not there, and this is not to wait for them.
    :raises ImportError: numba is not there, and the kernels have not been compiled yet.
    :raises RuntimeError: LLVM cannot do it on this machine.
    :raises NowhereToKeepError: The kernels have not been compiled yet, and no folder can be written to keep them.
    """
    with _lock:
        missing = [group for group in groups if group not in _loaded]
        if missing and _nowhere:
            raise _nowhere[0]
        try:
            if not wait and any(_find(_file_name(group)) is None for group in missing):
                _begin(missing, listener)
            for group in missing:
                _loaded.add(group, _load(group, listener))
        except NowhereToKeepError as error:
            listener.note(f"{error}; set TASKARITH_CACHE to a folder that lasts")
            _nowhere.append(error)
            raise
        return _loaded


def _load(group: str, listener: Listener) -> Any:
    """Return the engine that owns the code of a group."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )
    name = _file_name(group)
    code = _find(name) or _compile_once(machine, group, name, listener)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def _begin(groups: Sequence[str], listener: Listener) -> NoReturn:
    """Start a process that compiles the kernels, some groups first, unless this one has."""
    folder = _place_to_keep()
    if importlib.util.find_spec("numba") is None:
        raise ImportError("numba is not installed")
    if not _begun:
        listener.note(
            "compiling the arithmetic for this processor in the background, for about a minute, once (to be kept in "
            f"{folder}); meanwhile torch calculates the same bits"
        )
        _begun.append(True)
        path, ordered = [str(Path(each).resolve()) for each in sys.path], list(dict.fromkeys([*groups, *GROUPS]))
        code = _COMPILE.format(path=path, module=__name__, groups=ordered)
        nowhere = subprocess.DEVNULL
        with suppress(OSError):  # too many processes, say: the next command tries again
            _children.append(
                subprocess.Popen(
                    [sys.executable, "-c", code],
                    cwd="/",
                    start_new_session=True,
                    stdin=nowhere,
                    stdout=nowhere,
                    stderr=nowhere,
                )
            )
    raise NotYetError("the kernels are being compiled")


def _place_to_keep() -> Path:
    folder = next(writable_caches(_KERNELS), None)
    if folder is None:
        raise NowhereToKeepError("no cache folder can be written: torch calculates, to the same bits and slower")
    return folder


def _compile_once(machine: Any, group: str, name: str, listener: Listener) -> bytes:
    """Return a group's object code after it was kept, compiled by this process or by another one meanwhile."""
    folder = _place_to_keep()

    def tell() -> None:
        listener.note("waiting for another process, which compiles the arithmetic for this processor")

    with locked_folder(folder, tell):
        code = _find(name)
        if code is None:
            listener.note(f"compiling the arithmetic for this processor, to be kept in {folder}: up to 20 seconds")
            code = _compile(machine, group)
            data = xxhash.xxh3_128_digest(code) + code
            if not any(keep_file(one / name, data) for one in writable_caches(_KERNELS)):  # a full disk, say
                listener.note("what was compiled could not be kept: no cache folder has room for it")
    return code


def _compile(machine: Any, group: str) -> bytes:
    """Return the object code of a group for this machine."""
    from numba import cfunc, types

    from taskarith.arithmetic.kernels import distances, linear, merging, philox, products, ulp_pack, ulp_unpack

    parts = (distances, linear, merging, philox, products, ulp_pack, ulp_unpack)
    modules = {name: module for module in parts for name in module.__all__}
    kinds = {"i": types.int64, "d": types.float64}
    whole = llvm.parse_assembly("")
    for name, signature in GROUPS[group].items():
        function = cfunc(types.int64(*(kinds[kind] for kind in signature)), error_model="numpy")(
            getattr(modules[name], name).py_func
        )
        module = llvm.parse_assembly(function.inspect_llvm())
        module.get_function(function.native_name).name = name
        whole.link_in(module)
    for item in (*whole.functions, *whole.global_variables):
        if not item.is_declaration and item.name not in GROUPS[group]:
            item.linkage = llvm.Linkage.internal
    # now that nobody else can call them: what numba adds for errors and for Python is seen to be unused, and goes
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(whole, passes)
    needed = {item.name for item in (*whole.functions, *whole.global_variables) if item.is_declaration}
    if strangers := sorted(name for name in needed if not name.startswith(("llvm.", "mem"))):
        raise AssertionError(f"the kernels' code does not stand alone: {strangers}")
    return machine.emit_object(whole)


@cache
def _file_name(group: str) -> str:
    """Return the name of a group's object code: another one for every version, and for every kind of processor."""
    state = xxhash.xxh3_128("\n".join([llvmlite.__version__, platform.machine(), llvm.get_host_cpu_name()]).encode())
    state.update(llvm.get_host_cpu_features().flatten().encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        state.update(path.read_bytes())
    return f"{group}-{state.hexdigest()}.o"


def _find(name: str) -> bytes | None:
    """Return the object code that was kept, if it is there and whole."""
    for folder in cache_folders(_KERNELS):
        try:
            data = (folder / name).read_bytes()
        except OSError:
            continue
        digest, code = data[:_DIGEST], data[_DIGEST:]
        if digest == xxhash.xxh3_128_digest(code):
            return code
    return None
