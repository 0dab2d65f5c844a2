"""Files to look at."""

from __future__ import annotations

import torch
from safetensors.torch import save_file


def write(path, metadata=None, **tensors):
    """Save tensors as a safetensors file."""
    save_file({name: torch.as_tensor(value) for name, value in tensors.items()}, path, metadata=metadata)
    return path
