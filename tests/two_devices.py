"""Two devices that a CPU plays, to run models that are spread over several: mixing their tensors fails as on GPUs."""

from __future__ import annotations

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

FIRST, SECOND = (torch.device("lazy", index) for index in range(2))  # autograd needs no driver for this kind
_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten._local_scalar_dense.default}


class Placed(torch.Tensor):
    """A tensor on one of the devices: ``raw`` holds its numbers in CPU memory."""

    @staticmethod
    def __new__(cls, raw, device):
        how = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype, "device": device}
        return torch.Tensor._make_wrapper_subclass(cls, raw.size(), **how)

    def __init__(self, raw, _device):
        self.raw = raw

    def data_ptr(self):
        return self.raw.data_ptr()

    def tolist(self):
        return self.raw.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """``torch.tensor`` fills a new tensor where no operation is seen."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.pop("device", None) if func is torch.tensor else None
        result = func(*args, **kwargs)
        return result if device is None else result.to(device)


@contextlib.contextmanager
def two_devices():
    """Make both devices usable inside the block."""
    with _Operations(), _Functions():
        yield


def _run(func, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    wrappers = {id(tensor.raw): tensor for tensor in tensors if isinstance(tensor, Placed)}
    where = kwargs.get("device") or (tensors[0].device if func in _MOVES else _common(func, tensors))
    raw = tree_map(lambda leaf: leaf.raw if isinstance(leaf, Placed) else leaf, (args, kwargs))
    result = func(*raw[0], **raw[1] | ({"device": "cpu"} if "device" in kwargs else {}))

    def wrap(value):
        if not isinstance(value, torch.Tensor) or torch.device(where).type == "cpu":
            return value
        return wrappers[id(value)] if id(value) in wrappers else Placed(value, where)

    return tree_map(wrap, result)


def _common(func, tensors):
    """Return the device of all tensors; numbers, and indices in CPU memory, go with any."""
    is_free = func is torch.ops.aten.index.Tensor
    devices = {tensor.device for tensor in tensors if tensor.device.type != "cpu" or not (is_free or not tensor.dim())}
    if len(devices) > 1:
        raise RuntimeError(f"{func} takes tensors on one device, but these are on {sorted(map(str, devices))}")
    return next(iter(devices), torch.device("cpu"))
