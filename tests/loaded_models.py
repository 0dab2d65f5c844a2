"""Models loaded by transformers, and files that they are loaded from."""

from __future__ import annotations

from safetensors.torch import save_file


def load(kind, folder, dtype):
    return kind.from_pretrained(folder, dtype=dtype).eval()


def write(folder, tensors):
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def save(model, folder):
    model.save_pretrained(folder)
    return folder
