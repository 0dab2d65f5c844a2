"""Models whose tensors are changed in place."""

from __future__ import annotations

from safetensors.torch import load_file, save_file


def rewrite(folder, change):
    """Change the tensors of a one-file model in place."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
