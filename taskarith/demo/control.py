"""The control of the demo: a random vector with the norms of a real one, and the share of learning an edit removes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from taskarith.checkpoints.publish import publish_file
from taskarith.evaluation.score import Number

__all__ = ["random_vector", "share_lost"]


def random_vector(like: Path, output: Path, seed: int) -> None:
    """Write a vector of Gaussian noise with the tensor norms and the header of another vector.

    :param like: A task vector file.
    :param output: The file to write.
    :param seed: Seed of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    with safe_open(like, "pt") as file:
        metadata = dict(file.metadata())
        for name in sorted(file.keys()):
            delta = file.get_tensor(name)
            noise = torch.randn(delta.shape, generator=generator)
            norm = torch.linalg.vector_norm(delta, dtype=torch.float64)
            scale = norm / torch.linalg.vector_norm(noise, dtype=torch.float64).clamp(min=1e-30)
            tensors[name] = (noise * scale).to(delta.dtype)
    del metadata["deltas"]  # the fingerprints of the other vector
    metadata["finetuned"] = '{"name":"random noise with the norms of another vector"}'
    with publish_file(output, overwrite=True) as partial:
        save_file(tensors, partial, metadata=metadata)


def share_lost(
    base: Mapping[str, Mapping[str, Number]],
    tuned: Mapping[str, Mapping[str, Number]],
    edited: Mapping[str, Mapping[str, Number]],
) -> dict[str, float]:
    """Return, for each text, the share of the loss improvement over the base that an edit removed.

    (edited - tuned) / (base - tuned): 0 is unchanged, 1 is back at the base's loss, above 1 is worse than the base.
    """
    losses = {text: [model[text]["loss"].value for model in (base, tuned, edited)] for text in base}
    return {text: (after - best) / (first - best) for text, (first, best, after) in losses.items() if first != best}
