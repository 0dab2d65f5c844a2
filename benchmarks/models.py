"""Checkpoints of Phi-1.5's shape with random weights, of any size, written in constant memory."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from taskarith.checkpoints.header import build_header

__all__ = [
    "ADAPTER_WEIGHTS",
    "PHI_PARAMETERS",
    "RANK",
    "WEIGHTS",
    "hidden_size",
    "layout",
    "parameter_count",
    "write_adapter",
    "write_models",
    "write_sparse",
]

WEIGHTS, ADAPTER_WEIGHTS = "model.safetensors", "adapter_model.safetensors"
RANK = 16
PHI_PARAMETERS = 1_418_270_720
"""Parameters of Phi-1.5."""

_VOCABULARY, _LAYERS = 51200, 24
_WEIGHT_SCALE, _DELTA_SCALE = np.float32(0.02), np.float32(2e-4)
_SEED = 42
_CHUNK = 1 << 20


def hidden_size(parameters: float) -> int:
    """Return the width, a multiple of 64, at which a Phi of 24 layers has about so many parameters; Phi-1.5's: 2048."""
    square, linear = 12 * _LAYERS, 2 * _VOCABULARY + 13 * _LAYERS + 2
    width = (math.sqrt(linear**2 + 4 * square * (parameters - _VOCABULARY)) - linear) / (2 * square)
    return max(64, round(width / 64) * 64)


def layout(hidden: int, layers: int = _LAYERS, vocabulary: int = _VOCABULARY) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return name, dtype and shape of every tensor of a Phi of this width, as transformers names them."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense"):
            shapes |= {f"{prefix}{name}.weight": (hidden, hidden), f"{prefix}{name}.bias": (hidden,)}
        shapes |= {f"{prefix}mlp.fc1.weight": (4 * hidden, hidden), f"{prefix}mlp.fc1.bias": (4 * hidden,)}
        shapes |= {f"{prefix}mlp.fc2.weight": (hidden, 4 * hidden), f"{prefix}mlp.fc2.bias": (hidden,)}
        shapes |= {f"{prefix}input_layernorm.{part}": (hidden,) for part in ("weight", "bias")}
    shapes |= {f"model.final_layernorm.{part}": (hidden,) for part in ("weight", "bias")}
    shapes |= {"lm_head.weight": (vocabulary, hidden), "lm_head.bias": (vocabulary,)}
    return [(name, "BF16", shape) for name, shape in shapes.items()]


def parameter_count(hidden: int) -> int:
    """Return the exact number of parameters at a width."""
    return sum(math.prod(shape) for _, _, shape in layout(hidden))


def write_models(
    folder: Path, hidden: int, finetunes: int, layers: int = _LAYERS, vocabulary: int = _VOCABULARY
) -> list[Path]:
    """Write ``base`` and ``ft1``, ``ft2``, ... (the base plus small noise).

    Every tensor has a random generator of its own, so that the bytes do not depend on threads or chunks.

    :param folder: Where the model folders are written.
    :param hidden: Width of the models.
    :param finetunes: How many fine-tunes.
    :param layers: Number of layers.
    :param vocabulary: Rows of the embedding and of the head.
    :returns: The model folders, the base first.
    """
    models = _folders(folder, finetunes)
    tensors = layout(hidden, layers, vocabulary)
    head, places = build_header(tensors, {"format": "pt"})
    size = len(head) + sum(2 * math.prod(shape) for _, _, shape in tensors)
    files = [_create(model, head, size) for model in models]

    def fill(task: tuple[int, tuple[str, str, tuple[int, ...]]]) -> None:
        index, (name, _, shape) = task
        generator, elements = np.random.default_rng([_SEED, index]), math.prod(shape)
        for start in range(0, elements, _CHUNK):
            _fill_chunk(files, generator, min(_CHUNK, elements - start), places[name] + 2 * start)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, enumerate(tensors)))
    for file, model in zip(files, models, strict=True):
        os.close(file)
        _write_config(model, hidden, layers, vocabulary)
    return models


def write_adapter(folder: Path, base: Path, hidden: int) -> Path:
    """Write a LoRA for every linear layer of a Phi but its head, with random factors in float32, as PEFT would."""
    targets = [(name, shape) for name, _, shape in layout(hidden) if len(shape) == 2 and "layers" in name]
    described = []
    for name, (rows, columns) in targets:
        module = f"base_model.model.{name.removesuffix('.weight')}"
        described += [(f"{module}.lora_A.weight", "F32", (RANK, columns))]
        described += [(f"{module}.lora_B.weight", "F32", (rows, RANK))]
    head, _ = build_header(described, {"format": "pt"})
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(_SEED)
    with (folder / ADAPTER_WEIGHTS).open("wb") as file:
        file.write(head)
        for _, _, shape in described:
            file.write((generator.standard_normal(shape, dtype=np.float32) * np.float32(0.01)).tobytes())
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": sorted({name.split(".")[-2] for name, _ in targets}),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def write_sparse(folder: Path, hidden: int, finetunes: int) -> list[Path]:
    """Write the same folders with weights that are all zero and take no room on the disk."""
    models = _folders(folder, finetunes)
    head, _ = build_header(layout(hidden), {"format": "pt"})
    for model in models:
        os.close(_create(model, head, len(head) + 2 * parameter_count(hidden)))
        _write_config(model, hidden, _LAYERS, _VOCABULARY)
    return models


def _folders(folder: Path, finetunes: int) -> list[Path]:
    return [folder / name for name in ("base", *(f"ft{number + 1}" for number in range(finetunes)))]


def _create(model: Path, head: bytes, size: int) -> int:
    model.mkdir(parents=True)
    file = os.open(model / WEIGHTS, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    os.ftruncate(file, size)
    os.pwrite(file, head, 0)
    return file


def _fill_chunk(files: Sequence[int], generator: np.random.Generator, count: int, position: int) -> None:
    base = _to_bfloat16(generator.standard_normal(count, dtype=np.float32) * _WEIGHT_SCALE)
    os.pwrite(files[0], base.data, position)
    wide = (base.astype(np.uint32) << 16).view(np.float32)
    for file in files[1:]:
        noise = generator.standard_normal(count, dtype=np.float32) * _DELTA_SCALE
        os.pwrite(file, _to_bfloat16(wide + noise).data, position)


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _write_config(model: Path, hidden: int, layers: int, vocabulary: int) -> None:
    config = {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "max_position_embeddings": 2048,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (model / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
