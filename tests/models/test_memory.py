"""How much memory is left, by what the system says, and which errors mean that there is none."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from taskarith.models import memory
from taskarith.models.memory import available_memory, is_out_of_memory

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine with 20 GiB of RAM left and 1 of swap, without control groups."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=20 * GIB))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=GIB))
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def write_group(folder: Path, names: tuple[str, str, str], limit: object, usage: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


def test_what_is_left_is_shared_by_the_processes_of_a_machine(monkeypatch):
    assert available_memory(CPU) == 21 * GIB
    monkeypatch.setenv("WORLD_SIZE", "6")
    assert available_memory(CPU) == 21 * GIB // 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert available_memory(CPU) == 7 * GIB
    assert available_memory(torch.device("mps")) is None


@pytest.mark.parametrize(
    ("line", "root", "names", "none"),
    [
        ("0::/a/b", "", ("memory.max", "memory.current", "inactive_file"), "max"),
        ("4:memory:/a/b", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"), 2**63),
    ],
    ids=["v2", "v1"],
)
def test_the_tightest_control_group_counts(tmp_path, line, root, names, none):
    (tmp_path / "own").write_text(f"9:name=systemd:/x\n{line}\n")
    inner = tmp_path / "groups" / root / "a/b"
    write_group(inner, names, none, 3 * GIB, 0)
    assert available_memory(CPU) == 21 * GIB
    write_group(inner.parent, names, 8 * GIB, 5 * GIB, GIB)
    assert available_memory(CPU) == 4 * GIB  # cached files can go
    write_group(inner, names, GIB, 2 * GIB, 0)
    assert available_memory(CPU) == 0


def test_a_limit_of_the_address_space_counts(monkeypatch):
    used = psutil.Process().memory_info().vms
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (used + 2 * GIB, -1))
    left = available_memory(CPU)
    assert left is not None
    assert GIB < left <= 2 * GIB


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_that_mean_that_memory_ran_out(error, expected):
    assert is_out_of_memory(error) is expected


def test_what_torch_raises_on_a_cpu_is_one_of_them():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**46)
    assert is_out_of_memory(raised.value)
