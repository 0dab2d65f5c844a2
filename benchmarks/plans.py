"""`python -m benchmarks.plans`: plan edits of models of 405 and 671 billion parameters; prints a table.

Of these checkpoints only the headers are real, with the names, shapes and number of files of Llama 3.1 405B and of
DeepSeek-V3 in bfloat16; the rest of each file is a hole. Planning reads nothing else.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.measure import measure
from benchmarks.results import bullets, machine, table
from taskarith.checkpoints.header import ITEM_SIZES, build_header

_ROUNDS = 3
_Tensor = tuple[str, str, tuple[int, ...]]

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16384,
    "intermediate_size": 53248,
    "num_hidden_layers": 126,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "dtype": "bfloat16",
    "tie_word_embeddings": False,
}
_DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "dtype": "bfloat16",
    "tie_word_embeddings": False,
}


def main() -> None:
    """Write the headers, plan, and print the table."""
    rows = []
    for title, config, tensors, files in (
        ("Llama 3.1 405B", _LLAMA, list(_llama()), 191),
        ("DeepSeek-V3 671B", _DEEPSEEK, list(_deepseek()), 163),
    ):
        with tempfile.TemporaryDirectory() as work:
            base, *tuned = (_write(Path(work) / name, config, tensors, files) for name in ("base", "one", "two"))
            command = [sys.executable, "-m", "taskarith", "apply", str(base), "--dry-run", "-o", f"{work}/out"]
            command += [word for one in tuned for word in ("--add", f"{one}@@{base}:0.5")]
            runs = [measure(command, Path(work) / "out", Path(work) / "log", {}) for _ in range(_ROUNDS + 1)][1:]
        size = sum(math.prod(shape) * ITEM_SIZES[dtype] for _, dtype, shape in tensors)
        rows.append(
            [
                title,
                f"{len(tensors):,}",
                f"{size / 1e9:,.0f}",
                f"{median(run.seconds for run in runs):.1f}",
                f"{median(run.anonymous for run in runs) / 1e6:.0f}",
                f"{median(run.resident for run in runs) / 1e6:.0f}",
            ]
        )
    heads = ["`apply BASE --add ONE --add TWO --dry-run`", "tensors", "GB", "s", "anonymous MB", "all MB"]
    print("\n\n".join([bullets(machine("nothing")[:2]), table(heads, rows)]))


def _llama() -> Iterator[_Tensor]:
    width, between, heads = 16384, 53248, 8 * 128
    yield "model.embed_tokens.weight", "BF16", (128256, width)
    for layer in range(126):
        start = f"model.layers.{layer}."
        for name, shape in {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (heads, width),
            "self_attn.v_proj": (heads, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (between, width),
            "mlp.up_proj": (between, width),
            "mlp.down_proj": (width, between),
            "input_layernorm": (width,),
            "post_attention_layernorm": (width,),
        }.items():
            yield f"{start}{name}.weight", "BF16", shape
    yield "model.norm.weight", "BF16", (width,)
    yield "lm_head.weight", "BF16", (128256, width)


def _deepseek() -> Iterator[_Tensor]:
    width, heads = 7168, 128
    yield "model.embed_tokens.weight", "BF16", (129280, width)
    for layer in range(61):
        start = f"model.layers.{layer}."
        yield f"{start}self_attn.q_a_proj.weight", "BF16", (1536, width)
        yield f"{start}self_attn.q_a_layernorm.weight", "BF16", (1536,)
        yield f"{start}self_attn.q_b_proj.weight", "BF16", (heads * 192, 1536)
        yield f"{start}self_attn.kv_a_proj_with_mqa.weight", "BF16", (576, width)
        yield f"{start}self_attn.kv_a_layernorm.weight", "BF16", (512,)
        yield f"{start}self_attn.kv_b_proj.weight", "BF16", (heads * 256, 512)
        yield f"{start}self_attn.o_proj.weight", "BF16", (width, heads * 128)
        yield from _experts(f"{start}mlp.", layer, width)
        yield f"{start}input_layernorm.weight", "BF16", (width,)
        yield f"{start}post_attention_layernorm.weight", "BF16", (width,)
    yield "model.norm.weight", "BF16", (width,)
    yield "lm_head.weight", "BF16", (129280, width)


def _experts(start: str, layer: int, width: int) -> Iterator[_Tensor]:
    if layer < 3:
        parts = {start: 18432}
    else:
        parts = {f"{start}experts.{number}.": 2048 for number in range(256)} | {f"{start}shared_experts.": 2048}
        yield f"{start}gate.weight", "BF16", (256, width)
        yield f"{start}gate.e_score_correction_bias", "F32", (256,)
    for part, between in parts.items():
        for name, shape in {"gate": (between, width), "up": (between, width), "down": (width, between)}.items():
            yield f"{part}{name}_proj.weight", "BF16", shape


def _write(folder: Path, config: dict[str, object], tensors: list[_Tensor], files: int) -> Path:
    """Write a model whose files have headers and nothing else on the disk."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    places = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        part = tensors[number * len(tensors) // files : (number + 1) * len(tensors) // files]
        header, offsets = build_header(part, {"format": "pt"})
        with (folder / name).open("wb") as file:
            file.write(header)
            file.truncate(max(offsets[key] + math.prod(shape) * ITEM_SIZES[kind] for key, kind, shape in part))
        places |= dict.fromkeys([key for key, _, _ in part], name)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


if __name__ == "__main__":
    main()
