"""Models of which base and fine-tune have other tensors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def save(folder, tensors, **config):
    folder.mkdir(exist_ok=True)
    save_file({name: t.clone().contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return folder


def make(source, folder, change, **config):
    """Copy a model folder with other tensors, and perhaps another configuration."""
    shutil.copytree(source, folder)
    tensors = change(load_file(source / "model.safetensors"))
    save_file({name: t.clone().contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    whole = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(whole))
    return folder


N = 16
E = torch.randn(N, 8, generator=torch.Generator().manual_seed(0))


def run_hint(hint, place):
    """Type what a hint says to type; return the folder that it makes."""
    command = hint[hint.index("python -c") :].split(" --ignore")[0].replace("python -c", f"{sys.executable} -c")
    subprocess.run(["bash", "-c", command], cwd=place, check=True)
    (made,) = [path for path in place.iterdir() if path.name.endswith(("-renamed", "-untied"))]
    return made


A = "model.layers.0.self_attn."
TRIL = torch.ones(1, 1, 8, 8).tril()
BUFFERS = {
    f"{A}rotary_emb.inv_freq": torch.rand(4),
    "model.rotary_emb.original_inv_freq": torch.rand(4),
    "model.rotary_emb.full_attention_inv_freq": torch.rand(4),
    f"{A}rotary_emb.cos_cached": torch.rand(1, 1, 8, 4),
    f"{A}attention.bias": TRIL.to(torch.uint8),
    f"{A}attn.bias": TRIL,
    "h.0.crossattention.bias": TRIL.bool(),
    "h.0.attn.attention.bias": TRIL - TRIL.tril(-3),
    f"{A}attention.masked_bias": torch.tensor(-1e9),
    f"{A}attn.masked_bias": torch.tensor(-1e4, dtype=torch.float16),
    f"{A}causal_mask": torch.full((8, 8), torch.finfo(torch.bfloat16).min, dtype=torch.bfloat16).triu(1),
    f"{A}attn_mask": torch.full((1, 8, 8), -torch.inf).triu(1),
    "embeddings.position_ids": torch.arange(8)[None],
    "norm.num_batches_tracked": torch.tensor(3),
    "final_logits_bias": torch.zeros(1, 9),
    "decoder.version": torch.tensor([3.0]),
    "freqs_cis": torch.ones(4, 2, dtype=torch.complex64),
}
LEARNED = {
    f"{A}attn.bias": torch.randn(1, 1, 8, 8),
    f"{A}attention.bias": torch.zeros(1, 1, 8, 8),
    "h.0.attn.bias": TRIL + 1e-3 * TRIL.tril(-1),
    "h.1.attn.bias": TRIL.mT,
    "h.2.attn.bias": torch.ones(64),
    "h.3.attn.bias": TRIL.squeeze()[:, :4],
    "h.4.attn.bias": torch.ones(1, 1, 1, 1),
    f"{A}rotary_emb.inv_freq": torch.rand(4, 4),
    f"{A}attn.masked_bias": torch.tensor(-1.0),
    f"{A}masked_bias": torch.full((2,), -1e9),
    f"{A}pruning_mask": torch.rand(8, 8).round(),
    "final_logits_bias": torch.full((1, 9), 1e-3),
    "mtp.fc.weight": torch.ones(4, 4),
    "mlp.gate.e_score_correction_bias": torch.zeros(4),
    "norm.running_mean": torch.zeros(4),
    "logit_scale": torch.tensor(-1e9),
    f"{A}q_proj.qweight": torch.ones(4, 4, dtype=torch.int32),
    "experts.gate_up_proj_blocks": torch.ones(4, 4, dtype=torch.uint8),
    "extra": torch.ones(4, 4).to(torch.float8_e4m3fn),
}
