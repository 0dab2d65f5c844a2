"""`python -m benchmarks.many`: commands on a model of 89,497 tensors, and on one of a sixth of them; prints a table.

Its tensors are as small as they can be, so that what is measured is what each of them costs. The model is a mixture of
512 experts in 58 layers, as DeepSeek-V3 has 256 in as many, with a tensor for each matrix of an expert.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from benchmarks.measure import as_installed
from benchmarks.results import bullets, machine, table

__all__ = ["write"]

_LAYERS, _EXPERTS = (10, 58), 512
_COMMANDS = (
    "extract base tuned -o v.safetensors",
    "extract base tuned --exact -o exact.safetensors",
    "extract base tuned --rank 2 -o adapter",
    "apply base --negate v.safetensors --keep-undo -o edited",
    "apply base --negate exact.safetensors -o again",
    "apply base --negate adapter -o folded",
    "apply base --add tuned@@base --add v.safetensors --method ties --density 0.2 -o merged",
    "apply base --negate v.safetensors -o planned --dry-run",
    "verify edited",
    "undo edited -o undone",
    "diff base tuned",
    "inspect v.safetensors",
    "combine v.safetensors:0.5 + exact.safetensors -o sum.safetensors",
    "relate v.safetensors tuned@@base",
)


def main() -> None:
    """Run each command on both models."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many", description=__doc__)
    parser.add_argument("--work-dir", type=Path, help="for the models; needs the room")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work_dir) as folder:
        counts = [write(Path(folder) / str(layers), layers, _EXPERTS) for layers in _LAYERS]
        rows = []
        for command in _COMMANDS:
            few, many = (_seconds(Path(folder) / str(layers), command) for layers in _LAYERS)
            growth = (many / counts[1]) / (few / counts[0])
            rows.append([f"`{command}`", f"{few:.1f}", f"{many:.1f}", f"{1e3 * many / counts[1]:.2f}", f"{growth:.2f}"])
            print(*rows[-1], sep=" | ", flush=True)
    heads = ["", *(f"{count:,} tensors, s" for count in counts), "ms a tensor", "growth of that"]
    print("\n\n".join([bullets(machine("the same commands on fewer tensors")), table(heads, rows)]))


def write(folder: Path, layers: int, experts: int, *, size: int = 8) -> int:
    """Write a model, ``base``, and a fine-tune, ``tuned``, whose experts are tensors of their own; return how many."""
    noise = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (32, size), "lm_head.weight": (32, size), "model.norm.weight": (size,)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{side}_proj.weight": (size, size) for side in "qkvo"}
        shapes |= {f"{prefix}{norm}_layernorm.weight": (size,) for norm in ("input", "post_attention")}
        prefix += "block_sparse_moe."
        shapes[f"{prefix}gate.weight"] = (experts, size)
        shapes |= {f"{prefix}experts.{n}.{w}.weight": (size, size) for n in range(experts) for w in ("w1", "w2", "w3")}
    base = {name: noise.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    tuned = {name: values + noise.standard_normal(values.shape, dtype=np.float32) for name, values in base.items()}
    config = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": size, "vocab_size": 32}
    config |= {"intermediate_size": size, "num_hidden_layers": layers, "num_local_experts": experts}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False, "dtype": "float32"}
    for name, tensors in (("base", base), ("tuned", tuned)):
        (folder / name).mkdir(parents=True)
        save_file(tensors, folder / name / "model.safetensors", {"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(config))
    return len(shapes)


def _seconds(folder: Path, command: str) -> float:
    """Return how long a command takes the second time, when what can be known of the architecture is."""
    words, how = (
        [sys.executable, "-m", "taskarith", *command.split(), "--quiet"],
        {"cwd": folder, "env": as_installed()},
    )
    for again in ([], ["--overwrite"] if " -o " in command else []):
        start = time.perf_counter()
        done = subprocess.run([*words, *again], capture_output=True, text=True, check=False, **how)
        if done.returncode > (words[3] == "diff"):
            raise SystemExit(f"{command}: {done.stderr}")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
