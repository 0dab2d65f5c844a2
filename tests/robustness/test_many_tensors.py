"""No command looks at all tensors for each of them: with more tensors, lines of its code run as many times more.

Lines are counted, not seconds, so that the test is the same on every machine. It does not see loops of libraries.
"""

from __future__ import annotations

import json

import numpy as np
from line_counts import SLACK, lines_run
from safetensors.numpy import save_file

from taskarith.arithmetic.kernels.compile import GROUPS, load_kernels
from taskarith.checkpoints import checkpoint

FEW, MANY = 16, 128  # experts
COMMANDS = [
    "extract base tuned -o v.safetensors",
    "extract base tuned --exact -o exact.safetensors",
    "extract base tuned --top-k 0.2 -o sparse.safetensors",
    "extract base tuned --rank 1 -o adapter",
    "extract base tuned --rank 1 -o other --dry-run",
    "apply base --negate v.safetensors --keep-undo -o edited",
    "apply base --negate exact.safetensors --scale layers=0..1 -o scaled",
    "apply base --negate sparse.safetensors -o sparser",
    "apply base --negate adapter -o folded",
    "apply base --add tuned@@base --add v.safetensors:0.5 --method ties --density 0.2 -o merged",
    "apply base --negate v.safetensors -o planned --dry-run",
    "combine v.safetensors:0.5 + exact.safetensors -o sum.safetensors",
    "verify edited",
    "verify folded",
    "verify exact.safetensors",
    "undo edited -o undone",
    "diff base tuned",
    "inspect v.safetensors",
    "inspect adapter",
    "relate v.safetensors tuned@@base",
    "relate exact.safetensors adapter",
]


def write(folder, experts):
    """Write a model and a fine-tune whose experts are tensors of their own; return the number of tensors."""
    noise, size = np.random.default_rng(0), 8
    shapes = {"model.embed_tokens.weight": (32, size), "lm_head.weight": (32, size), "model.norm.weight": (size,)}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{side}_proj.weight": (size, size) for side in "qkvo"}
        shapes |= {f"{prefix}{norm}_layernorm.weight": (size,) for norm in ("input", "post_attention")}
        prefix += "block_sparse_moe."
        shapes[f"{prefix}gate.weight"] = (experts, size)
        shapes |= {f"{prefix}experts.{n}.{w}.weight": (size, size) for n in range(experts) for w in ("w1", "w2", "w3")}
    base = {name: noise.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    tuned = {name: values + noise.standard_normal(values.shape, dtype=np.float32) for name, values in base.items()}
    config = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": size, "vocab_size": 32}
    config |= {"intermediate_size": size, "num_hidden_layers": 2, "num_local_experts": experts}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False, "dtype": "float32"}
    for name, tensors in (("base", base), ("tuned", tuned)):
        (folder / name).mkdir(parents=True)
        save_file(tensors, folder / name / "model.safetensors", {"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(config))
    return len(shapes)


def test_lines_grow_as_tensors_do(tmp_path, monkeypatch):
    for group in GROUPS:
        load_kernels(group)
    found = {}
    for experts in (FEW, MANY):
        folder = tmp_path / str(experts)
        tensors = write(folder, experts)
        monkeypatch.chdir(folder)
        for command in COMMANDS:
            for again in ("", " --overwrite") if " -o " in command else ("",):
                checkpoint._fingerprints.clear()
                found[command + again, experts] = lines_run((command + again).split()) / tensors
    grown = {command: found[command, MANY] / share for (command, experts), share in found.items() if experts == FEW}
    assert {command: growth for command, growth in grown.items() if growth > SLACK} == {}
