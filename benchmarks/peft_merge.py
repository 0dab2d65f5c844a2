"""How PEFT users write an adapter into a model: load both, merge, save.

Run as ``python peft_merge.py BASE ADAPTER OUTPUT``.
"""

from __future__ import annotations

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main(base: str, adapter: str, output: str) -> None:
    """Merge an adapter into its base and save the model in the base's dtype."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
