"""Devices by name, and bfloat16 autocast where the device is fast at it."""

from __future__ import annotations

import os

import torch
from accelerate.utils import parse_flag_from_env

from taskarith.checkpoints.team import Team
from taskarith.errors import UsageError
from taskarith.models.runtime import Runtime

__all__ = ["autocast_choice", "choose_device", "describe_precision", "own_device", "training_device"]

_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def choose_device(name: str) -> torch.device:
    """Read ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    ``auto`` is the GPU (or another accelerator that torch supports) if there is one, else the CPU; also the CPU under
    ``accelerate launch --cpu``.

    :raises UsageError: The device is not available.
    """
    if name == "auto":
        on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        return (None if on_cpu else torch.accelerator.current_accelerator()) or torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (index and not (kind == "cuda" and index.isdecimal())):
        raise UsageError(f"unknown device '{name}'", "Choose auto, cpu, cuda, cuda:N or mps.")
    device = torch.device(name)
    count = {"cpu": 1, "mps": int(torch.backends.mps.is_available())}.get(kind, torch.cuda.device_count())
    if (device.index or 0) >= count:
        reason = f"this machine has {count} CUDA devices" if kind == "cuda" else "torch finds none here"
        raise UsageError(f"device {name} is not available: {reason}", "Choose another device, or --device auto.")
    return device


def own_device(runtime: Runtime, team: Team) -> torch.device:
    """Return the device of a process: on a machine with GPUs, each of several processes has one of its own.

    With a device map, it is the kind of the devices that the model is spread over.

    :raises UsageError: The device is not available, or a device map cannot be used.
    """
    device = choose_device(runtime.device)
    if runtime.device_map is not None:
        _check_device_map(runtime, device, team)
    if team.size == 1 or device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def training_device(name: str) -> torch.device:
    """Read a device, as ``choose_device``, for processes that train together: NCCL does not let two share a GPU.

    :raises UsageError: The device is not available, or more processes were started on this machine than it has GPUs.
    """
    device = choose_device(name)
    started, count = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if device.type == "cuda" and started > count:
        raise UsageError(
            f"{started} processes were started to train together, and this machine has {count} CUDA devices",
            f"Start one a GPU, as in accelerate launch --num_processes {count}; --gradient-accumulation-steps "
            f"{started // max(count, 1)} trains on batches as large.",
        )
    return device


def _check_device_map(runtime: Runtime, device: torch.device, team: Team) -> None:
    option = f"--device-map {runtime.device_map}"
    if runtime.device_map not in _DEVICE_MAPS:
        raise UsageError(f"unknown {option}", f"Choose {', '.join(_DEVICE_MAPS[:-1])} or {_DEVICE_MAPS[-1]}.")
    if runtime.device not in {"auto", device.type} or device.type in {"cpu", "mps"}:
        what = f"is {device.type} here" if runtime.device == "auto" else "is one device"
        raise UsageError(
            f"{option} spreads a model over all GPUs, but --device {runtime.device} {what}", "Leave out --device-map."
        )
    if team.size > 1:
        raise UsageError(
            f"{option} gives all GPUs to one process, but {team.size} were started",
            "Run the command without accelerate launch, or leave out --device-map.",
        )


def autocast_choice(device: torch.device, wanted: bool | None) -> tuple[bool, str]:
    """Decide whether to compute in bfloat16 under autocast; weights are float32 either way.

    :param device: Where training runs.
    :param wanted: The user's choice; None to let the device decide.
    :return: The decision, and its reason.
    :raises UsageError: bfloat16 was requested on a GPU without it.
    """
    is_fast, reason = _is_fast_in_bfloat16(device)
    if wanted is None:
        return is_fast, reason
    if wanted and not is_fast and device.type == "cuda":
        raise UsageError(f"--bf16 is given, but {reason}", "Leave out --bf16, or use another GPU.")
    return wanted, "as asked for"


def describe_precision(model: torch.nn.Module, autocast: str, reason: str) -> str:
    """Describe the dtypes in which a model is trained.

    :param model: Ready to train; frozen weights may have another dtype.
    :param autocast: ``no`` or the dtype of the calculation.
    :param reason: From ``autocast_choice``.
    """
    frozen = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if not p.requires_grad}
    bits = {"uint8": "4 bits", "int8": "8 bits"}
    frozen = {bits.get(dtype, dtype) for dtype in frozen}
    weights = "float32 weights" + (f", frozen ones in {' and '.join(sorted(frozen))}" if frozen else "")
    return f"{weights}, no autocast ({reason})" if autocast == "no" else f"{weights}, {autocast} autocast ({reason})"


def _is_fast_in_bfloat16(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return is_fast, f"{torch.cuda.get_device_name(device)} {'has' if is_fast else 'lacks'} bfloat16"
    if device.type == "cpu":
        has = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.11 does not say
        for name, called in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")):
            if has.get(name):
                return True, f"this CPU has {called}"
        return False, "this CPU has neither AMX nor AVX512-BF16"
    return False, f"bfloat16 is not known to be fast on {device.type}"
