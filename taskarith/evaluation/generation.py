"""Continuations of prompts, greedy or sampled."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from taskarith.checkpoints.units import Batches
from taskarith.evaluation.batches import Batching, Grouping, in_batches, in_pools, pad
from taskarith.evaluation.decoding import MOST_TOKENS, Job, decode
from taskarith.evaluation.grouping import decodes_alike, grouping_of_generation, runs_with_cache
from taskarith.evaluation.prompts import Prompt, decode_text, encode

__all__ = ["Sampling", "continue_greedily", "continue_sampled"]

_POOL = 4  # batches of prompts that share slots


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling at temperature 1.

    :param draws: Continuations per prompt.
    :param top_k: Sample from this many most likely tokens; 0 for all.
    :param seed: Random seed.
    """

    draws: int
    top_k: int
    seed: int

    def numbers(self, prompts: int, tokens: int) -> torch.Tensor:
        """Return a number in (0, 1] for each token of each draw, float64 of shape (prompts * draws, tokens)."""
        noise = torch.Generator().manual_seed(self.seed)
        return 1 - torch.rand(prompts * self.draws, tokens, generator=noise, dtype=torch.float64)


def continue_greedily(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    batching: Batching,
    *,
    max_new_tokens: int,
    end_ids: Collection[int],
) -> list[str]:
    """Continue prompts greedily, without penalties.

    A continuation ends after ``max_new_tokens``, before the first end token, or before the first of its prompt's
    ``ends``.

    :param model: In evaluation mode.
    :param tokenizer: The model's tokenizer.
    :param prompts: From ``make_prompts``.
    :param batching: Does not change continuations, except for ties within rounding.
    :param max_new_tokens: Maximum tokens of a continuation.
    :param end_ids: The model's end tokens; may be empty.
    """
    kept = None if batching.units is None else Batches(batching.units, list, _unpack)
    if all(batching.team.gather(decodes_alike(model, [prompt.input_ids for prompt in prompts], max_new_tokens))):
        return _decode_together(model, tokenizer, prompts, batching, kept, max_new_tokens, frozenset(end_ids))
    config = _generation(model, max_new_tokens, end_ids, do_sample=False)
    continuations = _continue(model, tokenizer, prompts, config, batching, kept)
    return [greedy for (greedy,) in continuations]


def continue_sampled(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    batching: Batching,
    sampling: Sampling,
    *,
    max_new_tokens: int,
    end_ids: Collection[int],
) -> list[list[str]]:
    """Sample several continuations of each prompt at temperature 1.

    Samples depend on the seed, and on batches and the device within rounding; if ``generate`` makes them, on all of
    the three. Torch's generators are left as they were.

    :param batching: Its size counts continuations; results are not stored.
    :param sampling: Number of draws, top-k and seed.
    :return: The continuations of each prompt; other parameters are those of ``continue_greedily``.
    """
    draws = sampling.draws
    if all(batching.team.gather(decodes_alike(model, [prompt.input_ids for prompt in prompts], max_new_tokens))):
        drawn = [prompt for prompt in prompts for _ in range(draws)]
        chooser = _Chooser(sampling.numbers(len(prompts), max_new_tokens + MOST_TOKENS), sampling.top_k)
        texts = _decode_together(model, tokenizer, drawn, batching, None, max_new_tokens, frozenset(end_ids), chooser)
        return [texts[start : start + draws] for start in range(0, len(texts), draws)]
    config = _generation(
        model,
        max_new_tokens,
        end_ids,
        do_sample=True,
        temperature=1.0,
        top_k=sampling.top_k,
        top_p=1.0,
        num_return_sequences=draws,
    )
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(sampling.seed)
        return _continue(model, tokenizer, prompts, config, replace(batching, size=max(1, batching.size // draws)))


def _generation(model: PreTrainedModel, max_new_tokens: int, end_ids: Collection[int], **how: Any) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=1,
        use_cache=runs_with_cache(model),
        eos_token_id=sorted(end_ids) or None,
        pad_token_id=0,
        **how,
    )


def _decode_together(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    batching: Batching,
    kept: Batches | None,
    limit: int,
    end_ids: Collection[int],
    chooser: _Chooser | None = None,
) -> list[str]:
    """Return the continuation of each prompt, by ``decode``; greedy without a chooser."""

    def text(prompt: Prompt, tokens: list[int]) -> str:
        return _cut(decode_text(tokenizer, _before(tokens, end_ids)), prompt.ends)

    def run(pool: list[int], slots: int) -> list[list[str]]:
        asked = [prompts[index] for index in pool]

        def is_over(index: int, tokens: list[int]) -> bool:
            if any(token in end_ids for token in tokens[-MOST_TOKENS:]):
                return True
            return any(end in decode_text(tokenizer, tokens) for end in asked[index].ends)

        truths = [encode(tokenizer, prompt.reference)[:limit] if prompt.reference else [] for prompt in asked]
        job = Job([prompt.input_ids for prompt in asked], truths, limit, is_over, batching.on_tokens)
        made = decode(model, replace(job, choose=chooser.of(pool)) if chooser else job, slots)
        return [[text(prompt, tokens)] for prompt, tokens in zip(asked, made, strict=True)]

    with torch.inference_mode():
        lengths = [len(prompt.input_ids) for prompt in prompts]
        size, pool = batching.size, _POOL if batching.team.size == 1 else 1  # or one process had all of few prompts
        pools = in_pools(lengths, run, size, pool, shrink=batching.shrink, team=batching.team, kept=kept)
    return [continuation for (continuation,) in pools]


@dataclass(frozen=True)
class _Chooser:
    """Samples by numbers drawn beforehand, so that neither batches nor guesses change a continuation.

    :param numbers: From ``Sampling``.
    :param top_k: Of ``Sampling``.
    """

    numbers: torch.Tensor
    top_k: int

    def of(self, pool: Sequence[int]) -> _Chooser:
        """Return that of some continuations."""
        return replace(self, numbers=self.numbers[pool])

    def __call__(self, logits: torch.Tensor, rows: Sequence[int], made: Sequence[int]) -> torch.Tensor:
        """Return tokens by inverting their distribution function; the parameters are those of ``Job.choose``."""
        scores, most = logits.float(), logits.shape[-1] - 1
        if 0 < self.top_k <= most:
            scores = scores.masked_fill(scores < scores.topk(self.top_k).values[..., -1:], -torch.inf)
        shares = scores.softmax(-1)
        shares = (shares.cpu() if shares.device.type == "mps" else shares).double().cumsum(-1)  # which has no float64
        steps = torch.tensor(made)[:, None] + torch.arange(logits.shape[1])
        wanted = self.numbers[torch.tensor(rows)[:, None], steps, None].to(shares.device) * shares[..., -1:]
        return torch.searchsorted(shares, wanted).squeeze(-1).clamp(max=most)  # beyond it of logits that are no numbers


def _continue(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    config: GenerationConfig,
    batching: Batching,
    kept: Batches | None = None,
) -> list[list[str]]:
    """Return the continuations of each prompt."""
    copies, limit = int(config.num_return_sequences or 1), int(config.max_new_tokens or 0)
    rows = [prompt.input_ids for prompt in prompts]
    end_ids = config.eos_token_id or []

    def generate(batch: list[int]) -> list[list[str]]:
        ids, mask = pad([rows[index] for index in batch], model.device, left=True)
        each = int(config.num_return_sequences or 1)
        steps = _Steps(lambda: batching.on_tokens(len(batch) * each))
        watch = StoppingCriteriaList([steps])
        make: Any = model.generate  # typed as any attribute of a Module
        outputs = make(input_ids=ids, attention_mask=mask, generation_config=config, stopping_criteria=watch)
        batching.on_tokens(len(batch) * each * (limit - steps.count))  # steps saved by ending early
        texts = [decode_text(tokenizer, _before(row, end_ids)) for row in outputs[:, ids.shape[1] :].tolist()]
        groups = [texts[start : start + each] for start in range(0, len(texts), each)]
        return [[_cut(text, prompts[index].ends) for text in group] for group, index in zip(groups, batch, strict=True)]

    def one_by_one(batch: list[int]) -> list[list[str]]:
        return [[text for _ in range(copies) for (text,) in generate(batch)]]

    with torch.inference_mode():
        is_alone = min(batching.size, len(rows)) * copies == 1
        grouping = Grouping.ALONE if is_alone else grouping_of_generation(model, rows)
        if grouping == Grouping.ALONE:
            config.num_return_sequences = 1
        run = one_by_one if grouping == Grouping.ALONE else generate
        lengths = [len(row) for row in rows]
        return in_batches(
            lengths, run, batching.size, shrink=batching.shrink, grouping=grouping, team=batching.team, kept=kept
        )


def _unpack(_: int, values: Any) -> list[str]:
    """Return the continuation of a prompt stored by ``Batches``."""
    (continuation,) = values
    if not isinstance(continuation, str):
        raise TypeError("a continuation is not a string")
    return [continuation]


class _Steps(StoppingCriteria):
    """Counts the steps of ``generate``; never stops it."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self.count = 0
        self._on_step = on_step

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        self.count += 1
        self._on_step()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _before(ids: list[int], end_ids: Collection[int]) -> list[int]:
    return ids[: next((index for index, token in enumerate(ids) if token in end_ids), len(ids))]


def _cut(text: str, ends: Sequence[str]) -> str:
    return text[: min((index for end in ends if (index := text.find(end)) >= 0), default=len(text))]
