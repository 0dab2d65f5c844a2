"""The kernels as functions to call: compiled by numba once a machine, then loaded without it.

Their object code is kept in the cache folder and loaded by llvmlite alone, which takes a tenth of the time that numba
needs to start. Compiling takes some seconds.
"""

from __future__ import annotations

import ctypes
import platform
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import xxhash

from taskarith.checkpoints.gguf import cache_folder
from taskarith.checkpoints.header import FLOAT_DTYPES

__all__ = ["BLOCK", "DTYPE_CODES", "Kernels", "are_compiled", "load_kernels"]

DTYPE_CODES = {dtype: code for code, dtype in enumerate(FLOAT_DTYPES)}
"""How the kernels call safetensors' float dtypes."""

BLOCK = 512
"""Elements that go through the kernels' buffers, which stay in a core's first cache, at a time."""

_SOURCES = (
    "bounded.py",
    "chance.py",
    "compiled.py",
    "inner.py",
    "kernels.py",
    "packing.py",
    "partway.py",
    "products.py",
    "rounding.py",
    "unpacking.py",
)
_DIGEST = 16
_SIGNATURES = {
    "linear": "iiiiiiiiiiidiiii",
    "delta": "iiiiiii",
    "difference": "iiiiiiiii",
    "inner_products": "iiiiiiiiiiiiii",
    "low_rank": "iiiiidiiii",
    "low_rank_light": "iiiiidiiiii",
    "draw": "iiii",
    "fold": "iiiiii",
    "keep": "iiiiiddii",
    "partway": "iiddiii",
    "pack": "iiiiiiiiii",
    "unfold": "iiiiiii",
}
"""Parameters of each function: i for int64 and addresses, d for float64. All return int64."""


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
    low_rank_light: Any
    draw: Any
    fold: Any
    keep: Any
    pack: Any
    partway: Any
    unfold: Any
    engine: Any


def are_compiled() -> bool:
    """Return whether ``load_kernels`` has nothing to compile."""
    return load_kernels.cache_info().currsize > 0 or _read(_cached()) is not None


@cache
def load_kernels() -> Kernels:
    """Return the kernels; the first run on a machine compiles them.

    :raises ImportError: numba is not there, and the kernels have not been compiled yet.
    :raises RuntimeError: LLVM cannot do it on this machine.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )
    path = _cached()
    code = _read(path)
    if code is None:
        code = _compile(machine)
        _write(path, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    kinds = {"i": ctypes.c_int64, "d": ctypes.c_double}
    functions = {
        name: ctypes.CFUNCTYPE(ctypes.c_int64, *(kinds[kind] for kind in signature))(engine.get_function_address(name))
        for name, signature in _SIGNATURES.items()
    }
    return Kernels(**functions, engine=engine)


def _compile(machine: Any) -> bytes:
    """Return object code for this machine."""
    from numba import cfunc, types

    from taskarith.arithmetic import chance, kernels, packing, partway, unpacking

    modules = {name: module for module in (chance, kernels, packing, partway, unpacking) for name in module.__all__}
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


def _cached() -> Path:
    """Return the file of the object code: another one for every version, and for every kind of processor."""
    state = xxhash.xxh3_128("\n".join([llvmlite.__version__, platform.machine(), llvm.get_host_cpu_name()]).encode())
    state.update(llvm.get_host_cpu_features().flatten().encode())
    for name in _SOURCES:
        state.update(Path(__file__).with_name(name).read_bytes())
    return cache_folder() / "kernels" / f"{state.hexdigest()}.o"


def _read(path: Path) -> bytes | None:
    """Return the object code that was kept, if it is there and whole."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, code = data[:_DIGEST], data[_DIGEST:]
    return code if digest == xxhash.xxh3_128_digest(code) else None


def _write(path: Path, code: bytes) -> None:
    """Keep the object code where that is allowed; the next run compiles it again where not."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(xxhash.xxh3_128_digest(code) + code)
        Path(file.name).replace(path)
