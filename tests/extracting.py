"""Models whose tensors are changed in place, and vectors between tiny models."""

from __future__ import annotations

import tiny
from safetensors.torch import load_file, save_file

from taskarith.vectors.extract import extract


def rewrite(folder, change):
    """Change the tensors of a one-file model in place."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def save_sharded(folder):
    """Save ``base``, of several files, ``tuned``, and ``v.safetensors``; return both models."""
    base = tiny.save_model(folder / "base", max_shard_size="30KB")
    tuned = tiny.save_model(folder / "tuned", nudge_of=base, seed=1)
    extract(str(base), str(tuned), folder / "v.safetensors")
    return base, tuned


def save_two_vectors(folder, base):
    """Save ``a.safetensors`` and ``b.safetensors``, and the models that they lead to."""
    for name, seed in (("a", 1), ("b", 2)):
        tiny.save_model(folder / f"tuned-{name}", nudge_of=base, seed=seed)
        extract(str(base), str(folder / f"tuned-{name}"), folder / f"{name}.safetensors")
