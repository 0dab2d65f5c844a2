"""Tiny models, adapters, texts and recipes for the script that hashes outputs; nothing here depends on taskarith."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

__all__ = ["MERGEKIT", "make_inputs"]

_WORDS = ["river", "stone", "lantern", "keeper", "north", "winter", "bread", "salt"]
_WORDS += ["engine", "valve", "copper", "tide", "harbour", "song", "road", "hill"]
_TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_SIZES |= {"num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 256}
_IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_CONFIGURATIONS = {
    "llama": lambda: LlamaConfig(**_SIZES, **_IDS, tie_word_embeddings=True),
    "qwen": lambda: Qwen2Config(**_SIZES, **_IDS, tie_word_embeddings=False),
    "gpt": lambda: GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=256, **_IDS),
}
MERGEKIT = {
    "linear": "weight: 0.6",
    "task_arithmetic": "weight: 0.6",
    "ties": "{weight: 0.6, density: 0.5}",
    "dare_ties": "{weight: [0.2, 0.6], density: 0.5}",
    "della": "{weight: 0.6, density: 0.5}",
    "breadcrumbs": "{weight: 0.6, density: 0.5}",
    "model_stock": "{}",
}


def make_inputs() -> None:
    """Write models of three kinds and dtypes with fine-tunes, adapters by PEFT, texts and recipes."""
    for kind, dtype in (("llama", torch.float32), ("qwen", torch.bfloat16), ("gpt", torch.float16)):
        Path(kind).mkdir()
        _save_model(f"{kind}/base", kind, dtype, 0)
        for seed, name in ((1, "tuned"), (2, "other")):
            _save_model(f"{kind}/{name}", kind, dtype, seed)
        targets = ["c_attn"] if kind == "gpt" else ["q_proj", "down_proj"]
        for seed, name in ((3, "lora"), (4, "second")):
            _save_adapter(f"{kind}/base", f"{kind}/{name}", targets, seed)
    for seed, name in enumerate(("forget", "retain")):
        torch.manual_seed(seed)
        lines = [" ".join(_WORDS[index] for index in torch.randint(16, (8,))) for _ in range(24)]
        Path(f"{name}.txt").write_text("\n".join(lines) + "\n")
        if name == "forget":
            rows = [{"question": line[:20], "answer": line[20:]} for line in lines]
            Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("recipe.yaml").write_text(
        "model: llama/base\nalpha: 0.5\noperands:\n  - vector: llama/float32.safetensors\n    coefficient: -0.6\n"
        "    scale: {layers: [0, 1], mlp: 0.5}\n  - llama/other.safetensors:0.2\nscale: {embed_tokens: 0}\n"
        "method: {name: ties, density: 0.5}\n"
    )
    for method, parameters in MERGEKIT.items():
        inputs = "".join(
            f"  - model: qwen/{name}\n    parameters: {parameters if '{' in parameters else '{' + parameters + '}'}\n"
            for name in ("tuned", "other")
        )
        base = "" if method == "linear" else "base_model: qwen/base\n"
        Path(f"{method}.yaml").write_text(f"merge_method: {method}\n{base}models:\n{inputs}")


def _save_model(folder: str, kind: str, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(_CONFIGURATIONS[kind](), dtype=torch.float32)
    draw: Callable[[torch.Tensor], torch.Tensor] = torch.randn_like
    for parameter in made.parameters():
        parameter.data.add_(draw(parameter) * 0.02)
    torch.manual_seed(seed)
    for parameter in made.parameters() if seed else ():
        parameter.data.add_(draw(parameter) * 0.01)
    made.to(dtype).save_pretrained(folder, max_shard_size="20KB" if kind == "llama" else "5GB")
    known = {word: number for number, word in enumerate(["<end>", "<none>", *_WORDS])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<none>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")  # noqa: S106
    if kind == "gpt":
        whole.chat_template = _TEMPLATE
    whole.save_pretrained(folder)


def _save_adapter(base: str, folder: str, targets: list[str], seed: int) -> None:
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=3, target_modules=targets))
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.1
    adapted.save_pretrained(folder)
