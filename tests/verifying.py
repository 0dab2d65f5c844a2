"""Outputs to verify."""

from __future__ import annotations

from taskarith.checkpoints.header import read_header


def tensors(folder):
    return [tensor for path in folder.glob("model*.safetensors") for tensor in read_header(path).tensors]
