"""The kernels as functions to call: compiled by numba once a machine, then loaded without it.

Their object code is kept in the cache and loaded by llvmlite alone, which takes a tenth of the time that numba needs to
start. Compiling takes half a minute, in a process of its own that outlives the command: until the code is there, torch
calculates, to the same bits. Where it cannot be kept it is not compiled.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import llvmlite
import llvmlite.binding as llvm
import xxhash

from taskarith.checkpoints.cache import cache_folders, keep_file, locked_folder, writable_caches
from taskarith.progress import SILENT, Listener

__all__ = ["Kernels", "NotYetError", "NowhereToKeepError", "load_kernels"]

_DIGEST = 16
_KERNELS = "kernels"
_SIGNATURES = {
    "linear": "iiiii",
    "delta": "iiiiiii",
    "difference": "iiiiii",
    "inner_products": "iiiiiiii",
    "low_rank": "idiiii",
    "draw": "iiii",
    "fold": "iiiiii",
    "keep": "iiiiiddii",
    "pack": "iiiiiiii",
    "unfold": "iiiiiii",
}
"""Parameters of each function: i for int64 and addresses, d for float64. All return int64."""


class NowhereToKeepError(RuntimeError):
    """Kernels are not compiled for one command alone."""


class NotYetError(RuntimeError):
    """A process of its own compiles the kernels."""


@dataclass(frozen=True)
class Kernels:
    """The functions of ``_SIGNATURES``; calling one lets other threads run.

    :param engine: Owns their code.
    """

    linear: Any
    delta: Any
    difference: Any
    inner_products: Any
    low_rank: Any
    draw: Any
    fold: Any
    keep: Any
    pack: Any
    unfold: Any
    engine: Any


_COMPILE = "import os, sys; os.nice(10); sys.path[:] = {path!r}; from {module} import load_kernels; load_kernels()"

_loaded: list[Kernels | NowhereToKeepError] = []
"""By this process."""

_begun: list[bool] = []
"""Whether this process has started one that compiles."""

_children: list[subprocess.Popen[bytes]] = []
"""Nobody waits for it, and it is not to be forgotten: Python would warn."""

_lock = threading.Lock()


def load_kernels(listener: Listener = SILENT, *, wait: bool = True) -> Kernels:
    """Return the kernels; the first run on a machine compiles them.

    :param listener: Receives a note that they are compiled, that another process does it, or that they cannot be kept.
    :param wait: Compile them here, or wait for another process that does; or let a process do it that goes on when this
        one ends.
    :raises NotYetError: They are not there, and this is not to wait for them.
    :raises ImportError: numba is not there, and the kernels have not been compiled yet.
    :raises RuntimeError: LLVM cannot do it on this machine.
    :raises NowhereToKeepError: The kernels have not been compiled yet, and no folder can be written to keep them.
    """
    with _lock:
        if not _loaded:
            try:
                _loaded.append(_load(listener, wait=wait))
            except NowhereToKeepError as error:
                listener.note(f"{error}; set TASKARITH_CACHE to a folder that lasts")
                _loaded.append(error)
    if isinstance(_loaded[0], NowhereToKeepError):
        raise _loaded[0]
    return _loaded[0]


def _load(listener: Listener, *, wait: bool) -> Kernels:
    name = _file_name()
    code = _find(name)
    if code is None and not wait:
        _begin(listener)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )
    if code is None:
        code = _compile_once(machine, name, listener)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    kinds = {"i": ctypes.c_int64, "d": ctypes.c_double}
    functions = {
        name: ctypes.CFUNCTYPE(ctypes.c_int64, *(kinds[kind] for kind in signature))(engine.get_function_address(name))
        for name, signature in _SIGNATURES.items()
    }
    return Kernels(**functions, engine=engine)


def _begin(listener: Listener) -> NoReturn:
    """Start a process that compiles the kernels, unless this one has."""
    folder = _place_to_keep()
    if importlib.util.find_spec("numba") is None:
        raise ImportError("numba is not installed")
    if not _begun:
        listener.note(
            "compiling the arithmetic for this processor in the background, for half a minute, once (to be kept in "
            f"{folder}); meanwhile torch calculates the same bits"
        )
        _begun.append(True)
        code = _COMPILE.format(path=[str(Path(each).resolve()) for each in sys.path], module=__name__)
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


def _compile_once(machine: Any, name: str, listener: Listener) -> bytes:
    """Return the kernels' object code after it was kept, compiled by this process or by another one meanwhile."""
    folder = _place_to_keep()

    def tell() -> None:
        listener.note("waiting for another process, which compiles the arithmetic for this processor")

    with locked_folder(folder, tell):
        code = _find(name)
        if code is None:
            listener.note(f"compiling the arithmetic for this processor, to be kept in {folder}: about 25 seconds")
            code = _compile(machine)
            data = xxhash.xxh3_128_digest(code) + code
            if not any(keep_file(one / name, data) for one in writable_caches(_KERNELS)):  # a full disk, say
                listener.note("what was compiled could not be kept: no cache folder has room for it")
    return code


def _compile(machine: Any) -> bytes:
    """Return object code for this machine."""
    from numba import cfunc, types

    from taskarith.arithmetic.kernels import linear, philox, ulp_pack, ulp_unpack

    modules = {name: module for module in (linear, philox, ulp_pack, ulp_unpack) for name in module.__all__}
    kinds = {"i": types.int64, "d": types.float64}
    whole = llvm.parse_assembly("")
    for name, signature in _SIGNATURES.items():
        function = cfunc(types.int64(*(kinds[kind] for kind in signature)), error_model="numpy")(
            getattr(modules[name], name).py_func
        )
        module = llvm.parse_assembly(function.inspect_llvm())
        module.get_function(function.native_name).name = name
        whole.link_in(module)
    for item in (*whole.functions, *whole.global_variables):
        if not item.is_declaration and item.name not in _SIGNATURES:
            item.linkage = llvm.Linkage.internal
    # now that nobody else can call them: what numba adds for errors and for Python is seen to be unused, and goes
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(whole, passes)
    needed = {item.name for item in (*whole.functions, *whole.global_variables) if item.is_declaration}
    if strangers := sorted(name for name in needed if not name.startswith(("llvm.", "mem"))):
        raise AssertionError(f"the kernels' code does not stand alone: {strangers}")
    return machine.emit_object(whole)


@cache
def _file_name() -> str:
    """Return the name of the object code's file: another one for every version, and for every kind of processor."""
    state = xxhash.xxh3_128("\n".join([llvmlite.__version__, platform.machine(), llvm.get_host_cpu_name()]).encode())
    state.update(llvm.get_host_cpu_features().flatten().encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        state.update(path.read_bytes())
    return f"{state.hexdigest()}.o"


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
