"""Prompts made from texts, and their greedy or sampled continuations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
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
from taskarith.data.documents import Document
from taskarith.data.load import DataSet
from taskarith.data.tokens import Sample, text_prefix
from taskarith.errors import DataError
from taskarith.evaluation.batches import Batching, Grouping, in_batches, in_pools, pad
from taskarith.evaluation.decoding import MOST_TOKENS, Job, decode
from taskarith.evaluation.grouping import decodes_alike, grouping_of_generation, runs_with_cache

__all__ = ["Prompt", "Sampling", "continue_greedily", "continue_sampled", "make_prompts"]

_POOL = 4  # batches of prompts that share slots


@dataclass(frozen=True)
class Prompt:
    """A prompt and its true continuation.

    :param id: The row's id, or the document's id, ``@`` and the index of the window's first token.
    :param input_ids: Tokens of the prompt, including those the tokenizer puts before every text.
    :param text: Those tokens as text, including special ones.
    :param reference: The true continuation.
    :param new_tokens: Maximum tokens to generate; None for the default.
    :param ends: Strings that end the continuation; it is cut before them.
    """

    id: str
    input_ids: tuple[int, ...]
    text: str
    reference: str
    new_tokens: int | None = None
    ends: tuple[str, ...] = ()


def make_prompts(
    data: DataSet,
    samples: Sequence[Sample],
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompts: int,
    prompt_tokens: int,
    continuation_tokens: int,
    whole_truth: bool = False,
) -> list[Prompt]:
    """Take prompts from a data set, spread evenly over it.

    Plain texts give windows of ``prompt_tokens`` followed by ``continuation_tokens``, spread over all windows of all
    documents; they overlap if the text is short, and there are fewer than ``prompts`` only if there are fewer such
    windows. Rows with a prompt (and chats) give that prompt, and their completion as reference, cut after
    ``continuation_tokens`` like the model's continuation.

    :param data: The documents.
    :param samples: The same data after ``tokenize``.
    :param prompts: Maximum number of prompts; 0 for none.
    :param whole_truth: Keep a row's whole completion as reference.
    :raises DataError: No document is long enough for a window, or a row's prompt is empty.
    """
    if not prompts:
        return []
    rows = {d.id: d for d in data.documents if d.prompt is not None or d.messages is not None}
    if rows:
        chosen = [samples[index] for index in _spread(len(samples), prompts)]
        limit = None if whole_truth else continuation_tokens
        return [_row_prompt(sample, rows[sample.id], tokenizer, limit) for sample in chosen]
    return list(_windows(data, tokenizer, prompts, prompt_tokens, continuation_tokens))


def _row_prompt(sample: Sample, row: Document, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> Prompt:
    if not sample.prompt_length:
        raise DataError(f"{sample.id} has an empty prompt", "Give each row a prompt, or use --prompts 0.")
    text = row.text
    if row.messages and row.messages[-1].get("tool_calls"):  # the template writes tool calls
        text = _decode(tokenizer, sample.input_ids[sample.prompt_length :])
    ids = _encode(tokenizer, text)
    reference = text if limit is None or len(ids) <= limit else _decode(tokenizer, ids[:limit])
    prompt = sample.input_ids[: sample.prompt_length]
    return Prompt(sample.id, prompt, _decode(tokenizer, prompt, whole=True), reference)


def _windows(
    data: DataSet, tokenizer: PreTrainedTokenizerBase, prompts: int, prompt_tokens: int, continuation_tokens: int
) -> Iterator[Prompt]:
    prefix, length = tuple(text_prefix(tokenizer)), prompt_tokens + continuation_tokens
    tokens = {document.id: _encode(tokenizer, document.text) for document in data.documents}
    counts = {id_: max(0, len(ids) - length + 1) for id_, ids in tokens.items()}
    total = sum(counts.values())
    if not total:
        longest = max(len(ids) for ids in tokens.values())
        raise DataError(
            f"{data.spec} has at most {longest} consecutive tokens, too few for a prompt of {prompt_tokens} "
            f"and a continuation of {continuation_tokens}",
            "Give more text, lower --prompt-tokens and --continuation-tokens, or use --prompts 0.",
        )
    wanted = _spread(total, prompts)
    passed = 0
    for id_, count in counts.items():
        for start in (number - passed for number in wanted if passed <= number < passed + count):
            window = tokens[id_][start : start + length]
            prompt, reference = (*prefix, *window[:prompt_tokens]), _decode(tokenizer, window[prompt_tokens:])
            yield Prompt(f"{id_}@{start}", prompt, _decode(tokenizer, prompt, whole=True), reference)
        passed += count


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

    Torch's generators are restored. Samples depend on the seed, the device and the batches.

    :param batching: Its size counts continuations; results are neither stored nor shared.
    :param sampling: Number of draws, top-k and seed.
    :return: The continuations of each prompt; other parameters are those of ``continue_greedily``.
    """
    config = _generation(
        model,
        max_new_tokens,
        end_ids,
        do_sample=True,
        temperature=1.0,
        top_k=sampling.top_k,
        top_p=1.0,
        num_return_sequences=sampling.draws,
    )
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(sampling.seed)
        return _continue(
            model, tokenizer, prompts, config, replace(batching, size=max(1, batching.size // sampling.draws))
        )


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
) -> list[str]:
    """Return the greedy continuation of each prompt, by ``decode``."""

    def text(prompt: Prompt, tokens: list[int]) -> str:
        return _cut(_decode(tokenizer, _before(tokens, end_ids)), prompt.ends)

    def run(pool: list[int], slots: int) -> list[list[str]]:
        asked = [prompts[index] for index in pool]

        def is_over(index: int, tokens: list[int]) -> bool:
            if any(token in end_ids for token in tokens[-MOST_TOKENS:]):
                return True
            return any(end in _decode(tokenizer, tokens) for end in asked[index].ends)

        truths = [_encode(tokenizer, prompt.reference)[:limit] if prompt.reference else [] for prompt in asked]
        job = Job([prompt.input_ids for prompt in asked], truths, limit, is_over, batching.on_tokens)
        made = decode(model, job, slots)
        return [[text(prompt, tokens)] for prompt, tokens in zip(asked, made, strict=True)]

    with torch.inference_mode():
        lengths = [len(prompt.input_ids) for prompt in prompts]
        size, pool = batching.size, _POOL if batching.team.size == 1 else 1  # or one process had all of few prompts
        pools = in_pools(lengths, run, size, pool, shrink=batching.shrink, team=batching.team, kept=kept)
    return [continuation for (continuation,) in pools]


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
        texts = [_decode(tokenizer, _before(row, end_ids)) for row in outputs[:, ids.shape[1] :].tolist()]
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


def _spread(total: int, count: int) -> list[int]:
    """Return up to ``count`` distinct numbers from 0 to ``total`` - 1, evenly spread and including both ends."""
    count = min(total, count)
    return [index * (total - 1) // max(count - 1, 1) for index in range(count)]


def _before(ids: list[int], end_ids: Collection[int]) -> list[int]:
    return ids[: next((index for index, token in enumerate(ids) if token in end_ids), len(ids))]


def _cut(text: str, ends: Sequence[str]) -> str:
    return text[: min((index for end in ends if (index := text.find(end)) >= 0), default=len(text))]


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, whole: bool = False) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=not whole, clean_up_tokenization_spaces=False))
