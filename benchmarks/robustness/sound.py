"""Small sound files of every kind that taskarith reads, made without a model library."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from gguf import GGUFWriter
from safetensors.numpy import save_file

from taskarith.checkpoints.header import build_header, read_header
from taskarith.edit.apply import apply
from taskarith.vectors.extract import extract
from taskarith.vectors.file import WEIGHTS

__all__ = [
    "RECIPES",
    "make_adapter",
    "make_edit",
    "make_float8",
    "make_gguf",
    "make_model",
    "make_records",
    "make_tofu",
    "make_vectors",
    "make_weights",
]

_WIDTH, _TOKENS = 8, 16
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": _WIDTH,
    "intermediate_size": _WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": _TOKENS,
    "tie_word_embeddings": False,
    "dtype": "float32",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
_PROJECTIONS = [f"self_attn.{one}_proj" for one in "qkvo"] + [f"mlp.{one}_proj" for one in ("gate", "up", "down")]
_ADAPTER = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "base",
    "revision": None,
    "r": 2,
    "lora_alpha": 4,
    "lora_dropout": 0.0,
    "bias": "none",
    "fan_in_fan_out": False,
    "target_modules": ["q_proj", "v_proj"],
    "target_parameters": None,
    "modules_to_save": ["norm"],
    "rank_pattern": {"layers.0.self_attn.v_proj": 1},
    "alpha_pattern": {"v_proj": 1},
    "trainable_token_indices": None,
    "use_rslora": False,
    "use_dora": False,
    "init_lora_weights": True,
    "layers_to_transform": None,
}
RECIPES = {
    "recipe.yaml": "model: base\nalpha: 0.5\noperands:\n  - vector: dense.safetensors\n    coefficient: -0.6\n"
    "    scale: {layers: [0, 1], mlp: 0.5}\n  - sparse.safetensors:0.2\nscale: {lm_head: 0}\n"
    "method: {name: ties, density: 0.5}\n",
    "mergekit.yaml": "merge_method: dare_ties\nbase_model: base\nmodels:\n  - model: base\n"
    "  - model: tuned\n"
    "    parameters:\n      weight: [0, 0.5, 1]\n      density: 0.5\n"
    "parameters:\n  normalize: true\n  int8_mask: true\n"
    "  lambda: 0.9\ndtype: bfloat16\n",
    "slices.yaml": "merge_method: slerp\nbase_model: base\nslices:\n  - sources:\n      - model: base\n"
    "        layer_range: [0, 1]\n      - model: tuned\n        layer_range: [0, 1]\n"
    "parameters:\n  t:\n"
    "    - filter: self_attn\n      value: [0, 0.5, 1]\n    - value: 0.5\ndtype: float16\n",
    "finetune.yaml": "learning-rate: 2e-5\nnum-train-epochs: 3\nlora-rank: 8\ndata: forget.txt\n"
    "seed: 42\nquiet: true\n",
}


def make_model(folder: Path, seed: int = 0, shards: int = 1, **config: Any) -> Path:
    """Write a tiny Llama; models of other seeds differ a little from that of seed 0."""
    folder.mkdir(parents=True)
    tensors = _tensors(seed)
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        index: dict[str, str] = {}
        for number in range(shards):
            file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
            mine = names[number::shards]
            save_file({name: tensors[name] for name in mine}, folder / file, metadata={"format": "pt"})
            index |= dict.fromkeys(mine, file)
        whole = {"metadata": {"total_size": 1}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(whole), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(_CONFIG | config), encoding="utf-8")
    known = {f"t{number}": number for number in range(_TOKENS - 2)} | {"<1>": _TOKENS - 2, "<0>": _TOKENS - 1}
    vocabulary = {"type": "WordLevel", "vocab": known, "unk_token": "<0>"}
    how = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": _TOKENS - 1 - number, "content": f"<{number}>", **how} for number in range(2)]
    pieces = {"type": "WhitespaceSplit"}
    tokenizer = {"version": "1.0", "added_tokens": added, "pre_tokenizer": pieces, "model": vocabulary}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    chat = {"chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}", "eos_token": "<0>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(chat), encoding="utf-8")
    return folder


def make_gguf(path: Path) -> None:
    """Write a tiny Llama with a tokenizer as GGUF."""
    writer = GGUFWriter(path, "llama")
    for key, value in (("context_length", 32), ("embedding_length", _WIDTH), ("feed_forward_length", _WIDTH)):
        getattr(writer, f"add_{key}")(value)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["t", "1", "t1", "1t", *(f"x{number}" for number in range(_TOKENS - 4))])
    writer.add_token_types([1] * _TOKENS)
    writer.add_token_merges(["t 1", "1 t"])  # of a single one transformers 5.17 takes the characters
    writer.add_bos_token_id(0)  # transformers 5.17 takes it for the end of a text, too
    writer.add_eos_token_id(0)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "o_proj": "attn_output"}
    parts |= {f"{one}_proj": f"attn_{one}" for one in "qkv"} | {
        f"{one}_proj": f"ffn_{one}" for one in ("gate", "up", "down")
    }
    for name, values in _tensors(0).items():
        stem = name.removesuffix(".weight")
        writer.add_tensor(f"{names.get(stem) or 'blk.0.' + parts[stem.rpartition('.')[2]]}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_float8(folder: Path, **config: Any) -> None:
    """Write a model with one matrix as float8, of one scale a block."""
    make_model(folder, **config)
    tensors = _tensors(0)
    name = "model.layers.0.mlp.up_proj.weight"
    weights = {key: ("F32", one.shape, one.tobytes()) for key, one in tensors.items() if key != name}
    weights[name] = "F8_E4M3", (_WIDTH, _WIDTH), bytes(range(_WIDTH * _WIDTH))
    weights[f"{name}_scale_inv"] = "F32", (2, 2), np.ones(4, np.float32).tobytes()
    entries = [(key, dtype, tuple(shape)) for key, (dtype, shape, _) in weights.items()]
    header, _ = build_header(entries, {"format": "pt"})
    data = b"".join(raw for _, _, raw in weights.values())
    (folder / "model.safetensors").write_bytes(header + data)


def make_weights(vector: Path, target: Path) -> None:
    """Write weights of importance for the deltas of a dense vector."""
    header = read_header(vector)
    tensors = {one.name: np.full(one.shape, 0.5, np.float32) for one in header.tensors}
    metadata = {key: value for key, value in header.metadata.items() if key.startswith(("base", "format"))}
    save_file(tensors, target, metadata=metadata | {"kind": WEIGHTS, "dtype": "F32", "finetuned": "{}", "tied": "{}"})


def make_adapter(folder: Path) -> Path:
    """Write a LoRA folder with two pairs of factors of different rank and a saved module."""
    folder.mkdir(parents=True)
    rng, stem = np.random.default_rng(1), "base_model.model.model.layers.0.self_attn"
    tensors = {
        f"{stem}.q_proj.lora_A.weight": _floats(rng, 2, _WIDTH),
        f"{stem}.q_proj.lora_B.weight": _floats(rng, _WIDTH, 2),
        f"{stem}.v_proj.lora_A.weight": _floats(rng, 1, _WIDTH),
        f"{stem}.v_proj.lora_B.weight": _floats(rng, _WIDTH, 1),
        "base_model.model.model.norm.weight": _floats(rng, _WIDTH),
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = _ADAPTER | {"base_model_name_or_path": str(folder.parent / "base")}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def make_vectors(folder: Path) -> None:
    """Write a base, a fine-tune, and a task vector of every form between them."""
    base, tuned = str(make_model(folder / "base")), str(make_model(folder / "tuned", seed=1))
    forms: dict[str, dict[str, Any]] = {
        "dense": {},
        "exact": {"exact": True},
        "sparse": {"top_k": 0.3},
        "rows": {"rows": 0.5},
        "eight": {"bits": 8},
        "one": {"bits": 1},
    }
    for name, options in forms.items():
        extract(base, tuned, folder / f"{name}.safetensors", **options)


def make_edit(folder: Path) -> None:
    """Write an edited model with an undo patch, beside what it was made from.

    Its record has no digests, as one of a stranger who made them fit or left them out: what is damaged is read on.
    """
    base, tuned = str(make_model(folder / "base")), str(make_model(folder / "tuned", seed=1))
    extract(base, tuned, folder / "v.safetensors")
    apply(base, negate=[str(folder / "v.safetensors")], alpha=0.5, output_dir=folder / "edited", keep_undo=True)
    path = folder / "edited/taskarith.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["files"], record["digest"]
    path.write_text(json.dumps(record), encoding="utf-8")


def make_records(path: Path) -> None:
    """Write records of every kind, of two models."""
    rng, rows = Random(0), []  # noqa: S311 no secret
    for model in ("base", "retain"):
        for number in range(2):
            head = {"model": model, "sample": str(number)}
            losses = [rng.random() for _ in range(4)]
            scored = {"nll": sum(losses), "tokens": 4, "correct": 2, "hits": "1100", "zlib_bytes": 20}
            rows += [
                {"kind": "loss", "text": text, **head, **scored, "token_losses": losses, "z_scores": losses}
                for text in ("forget", "holdout")
            ]
            both = {"prompt": "a b", "reference": "c d e", "continuation": "c d f"}
            rows.append({"kind": "continuation", "text": "forget", **head, **both})
            answer = {"loss": 0.5, "paraphrased_loss": 0.7, "perturbed_losses": [1.0, 2.0]}
            rows.append({"kind": "answer", "text": "forget", **head, **answer})
        head = {"model": model, "sample": "0", "text": "retain"}
        rows.append({"kind": "divergence", **head, "reference": "base", "kl": 0.1, "tokens": 4, "agreed": 3})
        rows.append({"kind": "task", **head, "text": "arc", "values": {"acc": 1.0}})
        rows.append({"kind": "task_score", **head, "text": "arc", "value": 0.5, "stderr": 0.1, "samples": 10})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_tofu(folder: Path) -> None:
    """Write TOFU's own log of one data set."""
    ids = [str(number) for number in range(3)]
    log: dict[str, Any] = {key: {one: 0.5 + int(one) for one in ids} for key in ("avg_gt_loss", "avg_paraphrased_loss")}
    log["average_perturb_loss"] = {one: [1.0, 2.0, 3.0] for one in ids}
    log["generated_text"] = {one: ["Who?", "an answer", "the answer"] for one in ids}
    (folder / "eval_log_forget.json").write_text(json.dumps(log), encoding="utf-8")


def _tensors(seed: int) -> dict[str, np.ndarray]:
    rng, moved = np.random.default_rng(0), np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (_TOKENS, _WIDTH),
        "model.norm.weight": (_WIDTH,),
    }
    shapes["lm_head.weight"] = (_TOKENS, _WIDTH)
    shapes |= {f"model.layers.0.{one}.weight": (_WIDTH, _WIDTH) for one in _PROJECTIONS}
    shapes |= {f"model.layers.0.{one}_layernorm.weight": (_WIDTH,) for one in ("input", "post_attention")}
    found = {name: _floats(rng, *shape) for name, shape in sorted(shapes.items())}
    return {name: one + (0.01 * _floats(moved, *one.shape) if seed else np.float32(0)) for name, one in found.items()}


def _floats(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)
