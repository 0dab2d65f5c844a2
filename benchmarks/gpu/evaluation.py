"""Measuring on each device: tokens a second of losses and of greedy continuations, and sweeps in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu.bench import Bench, Device
from benchmarks.results import table
from taskarith.data.load import load_data
from taskarith.data.tokens import tokenize
from taskarith.evaluation.batches import Batching, batch_start
from taskarith.evaluation.generation import continue_greedily
from taskarith.evaluation.loss import score_samples
from taskarith.evaluation.models import Loaded, open_model
from taskarith.evaluation.prompts import Prompt, make_prompts
from taskarith.progress import SILENT
from taskarith.sweeps.sweep import sweep

__all__ = ["evaluation"]

_ABOUT = """{parameters:.3g} B parameters; bfloat16 on a GPU, float32 on a CPU; the faster of two runs. *Losses* are of
blocks of 256 tokens in batches that fill the device; *continuations* of prompts of 64 tokens by 64 greedy ones, beside
transformers' `generate` on the same prompts in batches of 8, and how many are equal; *without graphs*: the same steps,
whose kernels Python starts one by one. A *sweep* measures four alphas in
memory on 16 blocks, loading included."""

_BLOCK, _PROMPT, _NEW = 256, 64, 64
_ALPHAS = (0.25, 0.5, 0.75, 1.0)


def evaluation(bench: Bench) -> str:
    """Measure, and return a table."""
    base, tuned, _ = bench.models()
    rows, device = [], bench.alone
    if bench.has_time(f"evaluation on {device.name}", 60):
        loaded = open_model(str(base), torch.device(device.name), None, SILENT)
        rows.append([device.name, _losses(bench, loaded, device), *_continuations(bench, loaded, device)])
        del loaded
        text, how = _short_texts(bench), {"prompts": 0, "block_size": _BLOCK, "device": device.name}
        start = time.perf_counter()
        sweep(str(base), text, negate=[f"{tuned}@@{base}"], alphas=_ALPHAS, target=10.0, **how)
        rows[-1].append(f"{time.perf_counter() - start:.1f}")
        print(rows[-1], flush=True)
    speeds = [f"{what}, tokens/s" for what in ("losses", "continuations", "without graphs", "generate")]
    heads = ["", *speeds, "ratio", "equal", "sweep, s"]
    about = _ABOUT.format(parameters=bench.parameters / 1e9)
    return f"{about}\n\n{table(heads, rows)}"


def _short_texts(bench: Bench) -> dict[str, str]:
    """Return two texts of eight blocks each."""
    whole, found = bench.text.read_text(encoding="utf-8"), {}
    for number, name in enumerate(("forget", "retain")):
        path, start = bench.work / f"{name}.txt", number * 8 * _BLOCK
        path.write_text(whole[start : start + 8 * _BLOCK], encoding="utf-8")
        found[name] = str(path)
    return found


def _losses(bench: Bench, loaded: Loaded, device: Device) -> str:
    count = 8 if device.name == "cpu" else 256
    samples = tokenize(load_data(str(bench.text)), loaded.tokenizer, _BLOCK)[:count]
    batching = Batching(batch_start(loaded.model, _BLOCK, cached=False), shrink=True)
    seconds = min(_time(lambda: score_samples(loaded.model, samples, batching)) for _ in range(2))
    return f"{count * _BLOCK / seconds:,.0f}"


def _continuations(bench: Bench, loaded: Loaded, device: Device) -> list[str]:
    count, new = (4, 16) if device.name == "cpu" else (32, _NEW)
    data, tokenizer = load_data(str(bench.text)), loaded.tokenizer
    prompts = make_prompts(data, [], tokenizer, prompts=count, prompt_tokens=_PROMPT, continuation_tokens=new)
    model, end_ids = loaded.model, loaded.end_ids
    batching = Batching(batch_start(model, _PROMPT + new, cached=True), shrink=True)
    found: dict[str, list[str]] = {}

    def ours() -> None:
        found["ours"] = continue_greedily(model, tokenizer, prompts, batching, max_new_tokens=new, end_ids=end_ids)

    def without_graphs() -> None:
        with mock.patch("taskarith.evaluation.decoding.can_record", return_value=False):
            ours()

    def theirs() -> None:
        found["theirs"] = _generate(loaded, prompts, new)

    plain, mine, other = (min(_time(act) for _ in range(2)) for act in (without_graphs, ours, theirs))
    equal = sum(one == other for one, other in zip(found["ours"], found["theirs"], strict=True))
    speeds = [f"{count * new / seconds:,.0f}" for seconds in (mine, plain, other)]
    return [*speeds, f"{other / mine:.2f}", f"{equal} of {count}"]


def _generate(loaded: Loaded, prompts: list[Prompt], new: int) -> list[str]:
    """Continue prompts, all of one length, as transformers' users do."""
    make: Any = loaded.model.generate
    texts: list[str] = []
    for start in range(0, len(prompts), 8):
        ids = torch.tensor([prompt.input_ids for prompt in prompts[start : start + 8]], device=loaded.model.device)
        how = {"attention_mask": torch.ones_like(ids), "max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        outputs = make(input_ids=ids, **how)[:, ids.shape[1] :].tolist()
        texts += [loaded.tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in outputs]
    return texts


def _time(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
