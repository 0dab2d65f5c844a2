"""Prompts made from texts, with their true continuations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from taskarith.data.documents import Document
from taskarith.data.load import DataSet
from taskarith.data.tokens import Sample, text_prefix
from taskarith.errors import DataError

__all__ = ["Prompt", "decode_text", "encode", "make_prompts"]


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
        text = decode_text(tokenizer, sample.input_ids[sample.prompt_length :])
    ids = encode(tokenizer, text)
    reference = text if limit is None or len(ids) <= limit else decode_text(tokenizer, ids[:limit])
    prompt = sample.input_ids[: sample.prompt_length]
    return Prompt(sample.id, prompt, decode_text(tokenizer, prompt, whole=True), reference)


def _windows(
    data: DataSet, tokenizer: PreTrainedTokenizerBase, prompts: int, prompt_tokens: int, continuation_tokens: int
) -> Iterator[Prompt]:
    prefix, length = tuple(text_prefix(tokenizer)), prompt_tokens + continuation_tokens
    tokens = {document.id: encode(tokenizer, document.text) for document in data.documents}
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
            prompt, reference = (*prefix, *window[:prompt_tokens]), decode_text(tokenizer, window[prompt_tokens:])
            yield Prompt(f"{id_}@{start}", prompt, decode_text(tokenizer, prompt, whole=True), reference)
        passed += count


def _spread(total: int, count: int) -> list[int]:
    """Return up to ``count`` distinct numbers from 0 to ``total`` - 1, evenly spread and including both ends."""
    count = min(total, count)
    return [index * (total - 1) // max(count - 1, 1) for index in range(count)]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text, without those that the tokenizer puts before every text."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def decode_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, whole: bool = False) -> str:
    """Return tokens as text; ``whole`` keeps special ones."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=not whole, clean_up_tokenization_spaces=False))
