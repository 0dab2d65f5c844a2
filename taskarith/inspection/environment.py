"""What this machine has and what of it is used: for a look before long work, and for reports of faults."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from huggingface_hub import constants

from taskarith.arithmetic.parallel import usable_cores
from taskarith.checkpoints.cache import cache_folders
from taskarith.checkpoints.provenance import versions
from taskarith.models.device import autocast_choice, choose_device
from taskarith.models.memory import available_memory

__all__ = ["environment"]

_MORE = ("typer", "numba", "optuna", "lm-eval", "bitsandbytes", "deepspeed", "gguf")
"""Packages that a part of taskarith uses."""


def environment() -> dict[str, str]:
    """Return what matters of this machine by its name, in the order in which it is told."""
    return {
        **versions(),
        **{name: found for name in _MORE if (found := _version(name))},
        "platform": platform.platform(),
        "cores": f"{usable_cores()} usable of {os.cpu_count()}",
        "memory": f"{_gigabytes(available_memory(torch.device('cpu')))} free of {_gigabytes(_memory())}",
        "GPUs": "; ".join(_gpus()) or "none",
        "device": _device(),
        "disk here": f"{_gigabytes(shutil.disk_usage(Path.cwd()).free)} free",
        "cache": ", ".join(_folder(folder) for folder in cache_folders("")),
        "Hugging Face": f"{_folder(Path(constants.HF_HUB_CACHE))}{', offline' if constants.HF_HUB_OFFLINE else ''}",
        "variables": ", ".join(_variables()) or "none",
    }


def _version(package: str) -> str:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


def _gigabytes(nbytes: int | None) -> str:
    return "unknown" if nbytes is None else f"{nbytes / 1e9:,.1f} GB"


def _memory() -> int:
    return psutil.virtual_memory().total


def _gpus() -> Iterator[str]:
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        yield f"cuda:{index} {found.name}, {_gigabytes(found.total_memory)}, CUDA {torch.version.cuda}"
    if torch.backends.mps.is_available():
        yield "mps"


def _device() -> str:
    """Say what ``--device auto`` takes, and how it trains."""
    device = choose_device("auto")
    is_on, reason = autocast_choice(device, None)
    return f"auto is {device}; training {'with' if is_on else 'without'} bfloat16 autocast ({reason})"


def _folder(path: Path) -> str:
    """Name a folder, from the home folder where it is in it, and say whether it can be used."""
    home = Path.home()
    name = f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
    parent = next(one for one in (path, *path.parents) if one.exists())
    return name if os.access(parent, os.W_OK) else f"{name} (cannot be written)"


def _variables() -> Iterator[str]:
    """Yield the environment variables that change what taskarith does; of options only names, as one may be secret."""
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU", "WORLD_SIZE"):
        if name in os.environ:
            yield f"{name}={os.environ[name]}"
    yield from (name for name in sorted(os.environ) if name.startswith("TASKARITH_"))
