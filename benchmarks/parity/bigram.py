"""A model whose every logit is known: of the last token alone, by how often the next one followed it in some texts.

It is a Llama without attention and without products in between, so that a run takes seconds and its numbers depend on
no training: what tests compare with numbers that other tools once gave.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["save_bigram"]

_END = "<|end|>"
_SHARPNESS = 2.0
"""How far apart the logarithms of one more sight of a pair are: greedy output follows the texts, and not blindly."""


def save_bigram(folder: Path, texts: Iterable[str], vocabulary: Iterable[str]) -> Path:
    """Write a model that has seen some texts, as float32, with its tokenizer.

    :param folder: Where to.
    :param texts: What it has seen, each with an end token after it.
    :param vocabulary: Texts whose words are its tokens; others are cut into bytes.
    """
    tokenizer = _tokenizer(vocabulary)
    size = len(tokenizer)
    counts = torch.zeros(size, size, dtype=torch.float64)
    for text in texts:
        ids = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
        for before, after in pairwise(ids):
            counts[before, after] += 1
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    logits = _SHARPNESS * torch.log1p(counts) + torch.cos(torch.arange(size, dtype=torch.float64)) / 4
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.model.norm.weight.fill_(size**-0.5)  # which makes of a row of the identity that row again
        model.lm_head.weight.copy_(logits.T)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text)}
    listed = [_END, *sorted(pre_tokenizers.ByteLevel.alphabet()), *sorted(word for word in words if len(word) > 1)]
    ids = {word: number for number, word in enumerate(listed)}
    made = Tokenizer(models.WordPiece(ids, unk_token=_END, continuing_subword_prefix=""))
    made.pre_tokenizer = split
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=_END, pad_token=_END)
