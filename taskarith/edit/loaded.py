"""A model that transformers has loaded: what its tensors hold, which are one, and how files become them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from taskarith.architecture.ask import without_messages
from taskarith.arithmetic.torch import TORCH_DTYPES
from taskarith.errors import MismatchError

__all__ = [
    "check_numbers",
    "check_shared",
    "load_converted",
    "main_dtype",
    "not_converted",
    "sharing_memory",
    "undo_rescaling",
]


def load_converted(
    model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return what a model loads from tensors with the names of files, by the names in memory.

    What it finds no tensor for, and would make random numbers for, is left out.

    :raises MismatchError: transformers does not load them.
    """
    make: Any = type(model).from_pretrained
    try:
        with without_messages(), torch.random.fork_rng(devices=[]):
            made, info = make(None, config=model.config, state_dict=tensors, dtype=dtype, output_loading_info=True)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise not_converted(str(error).strip().partition("\n")[0]) from error
    return {name: values for name, values in made.state_dict().items() if name not in info["missing_keys"]}


def main_dtype(state: Mapping[str, torch.Tensor]) -> torch.dtype:
    """Return the dtype that most of a model's floats have: the one that it was loaded in."""
    counts: Counter[torch.dtype] = Counter()
    for values in state.values():
        counts[values.dtype] += values.numel() if values.is_floating_point() else 0
    return max(counts, key=counts.__getitem__)


def undo_rescaling(model: PreTrainedModel) -> None:
    """Give weights that a model divides when it first runs (RWKV) back their values; it divides them again."""
    for module in model.modules():
        if getattr(module, "layers_are_rescaled", False):
            rescale: Any = module._rescale_layers
            mode = module.training
            module.train()
            rescale()
            module.train(mode)


def sharing_memory(state: Mapping[str, torch.Tensor]) -> set[str]:
    """Return the names of tensors that lie where others lie, too: tied weights."""
    places: dict[tuple[Any, ...], list[str]] = {}
    for name, values in state.items():
        if values.is_meta or not values.numel():
            continue
        places.setdefault((values.device, values.data_ptr(), values.shape), []).append(name)
    return {name for names in places.values() if len(names) > 1 for name in names}


def check_shared(state: Mapping[str, torch.Tensor], written: Mapping[str, torch.Tensor]) -> None:
    """Make sure that nothing was written over with something else.

    :raises MismatchError: The edit makes two tensors of one.
    """
    lost = [
        name for name, values in written.items() if not torch.equal(state[name].cpu(), values.to(state[name].dtype))
    ]
    if lost:
        raise MismatchError(
            f"{lost[0]} is tied to another weight in memory, and the edit makes them differ",
            "Write the edit with taskarith apply, and load that: it is then no longer tied.",
        )


def check_numbers(state: Mapping[str, torch.Tensor]) -> None:
    """Make sure that tensors in memory hold plain floats.

    :raises MismatchError: One is quantised, or is not in memory.
    """
    for name, values in state.items():
        if values.is_meta:
            raise MismatchError(
                f"{name} is offloaded to CPU memory or the disk, and cannot be edited there",
                "Load the model without a device_map, or only onto GPUs; or write the edit with taskarith apply.",
            )
        if values.dtype not in TORCH_DTYPES.values():
            raise MismatchError(
                f"{name} is {str(values.dtype).removeprefix('torch.')} in memory, which cannot be edited",
                "Load the model without quantisation, or write the edit with taskarith apply, and load that.",
            )


def not_converted(reason: str) -> MismatchError:
    """Say why a model with other names in memory than in its files cannot be edited there."""
    return MismatchError(
        f"the model cannot be edited in memory: {reason}", "Write the edit with taskarith apply, and load that."
    )
