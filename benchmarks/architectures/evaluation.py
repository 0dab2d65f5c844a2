"""Steps of the sweep: losses beside a plain calculation, an edit in memory beside a written one, continuations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

import taskarith
from benchmarks.architectures.case import Case, ImpossibleError, check, text
from taskarith.evaluation.grouping import runs_with_cache

__all__ = ["edits_in_memory", "generates_alike", "measures_loss"]

_LENGTHS = [(5, 3), (2, 9), (11, 4), (7, 7), (3, 5)]
"""Words of prompts and completions."""


def measures_loss(case: Case) -> None:
    """Measure losses: those of logits in float64, prompt by prompt."""
    found = [record for record in _measure(case, [case.base()]) if record["kind"] == "loss"]
    model = case.language_model(case.base())
    tokenizer: Any = AutoTokenizer.from_pretrained(case.base())
    rows = _rows()
    check(len(found) == len(rows), f"{len(found)} losses of {len(rows)} rows")
    for record, row in zip(found, rows, strict=True):
        prompt = tokenizer(row["prompt"]).input_ids
        ids = tokenizer(row["prompt"] + row["completion"]).input_ids
        ids = [*ids, *([tokenizer.eos_token_id] if ids[-1] != tokenizer.eos_token_id else [])]
        with torch.no_grad():
            logits, shorter = (model(input_ids=torch.tensor([row])).logits[0].double() for row in (ids, ids[:-1]))
        if not torch.allclose(logits[:-1], shorter, rtol=1e-4, atol=1e-4):
            raise ImpossibleError("the model's predictions depend on how many tokens follow")
        start = next((n for n, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), len(prompt))
        losses = torch.nn.functional.cross_entropy(logits[start - 1 : -1], torch.tensor(ids[start:]), reduction="none")
        right = float(losses.sum())
        check(record["tokens"] == len(losses), f"{record['tokens']} tokens scored of {len(losses)}")
        off = abs(record["nll"] - right) / right
        check(off < 1e-5, f"the loss differs by {off:.1e} of it")


def edits_in_memory(case: Case) -> None:
    """Measure an edit in memory: the loss of the written one."""
    out = str(case.path("half"))
    taskarith.apply(case.base(), add=[case.difference()], alpha=0.5, output_dir=out)
    memory, written = _measure(case, [case.base()], add=[case.difference()], alphas=[0.5]), _measure(case, [out])
    pairs = [(one["nll"], two["nll"]) for one, two in zip(memory, written, strict=True) if one["kind"] == "loss"]
    check(all(one == two for one, two in pairs), f"losses differ by {max(abs(one - two) for one, two in pairs):.1e}")


def generates_alike(case: Case) -> None:
    """Continue prompts of several lengths one by one, five at a time, and by transformers alone: the same words."""
    alone, together = (_continuations(case, size) for size in (1, 5))
    for others, what in ((together, "depend on the batch"), (_generated(case), "differ from those of generate")):
        differing = sum(one != two for one, two in zip(alone, others, strict=True))
        check(not differing, f"{differing} of {len(alone)} continuations {what}")
    if not any(alone):
        raise ImpossibleError("the model continues with special tokens only")


def _rows() -> list[dict[str, str]]:
    return [{"prompt": text(p, 31 + n), "completion": " " + text(c, 41 + n)} for n, (p, c) in enumerate(_LENGTHS)]


def _continuations(case: Case, batch_size: int) -> list[str]:
    records = _measure(case, [case.base()], prompts=5, continuation_tokens=8, batch_size=batch_size)
    return [record["continuation"] for record in records if record["kind"] == "continuation"]


def _generated(case: Case) -> list[str]:
    """Return the continuation of each prompt by ``generate``, one by one, as it is called in transformers' guide."""
    model, tokenizer = case.language_model(case.base()), AutoTokenizer.from_pretrained(case.base())
    ends = model.generation_config.eos_token_id
    config = GenerationConfig(max_new_tokens=8, eos_token_id=ends, pad_token_id=0, use_cache=runs_with_cache(model))
    texts = []
    for row in _rows():
        ids = torch.tensor([tokenizer(row["prompt"]).input_ids])
        with torch.no_grad():
            (made,) = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        texts.append(tokenizer.decode(made[ids.shape[1] :], skip_special_tokens=True))
    return texts


def _measure(case: Case, models: Sequence[str], **options: Any) -> list[dict[str, Any]]:
    path = case.path("rows.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in _rows()), encoding="utf-8")
    options = {"prompts": 0, "block_size": 128, "batch_size": 5, "device": "cpu", "dtype": "float32"} | options
    return taskarith.evaluate(models, {"rows": str(path)}, **options).records
