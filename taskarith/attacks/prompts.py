"""Passages of the forget text (a context and its true continuation), and the prompts that attacks make of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from taskarith.data.load import DataSet
from taskarith.data.tokens import Sample, text_prefix, tokenize
from taskarith.errors import DataError
from taskarith.evaluation.prompts import Prompt, make_prompts

__all__ = ["Passage", "file_prompts", "growing", "make_passages", "plain", "rephrased_by_rule", "shift_of"]

_INSTRUCTION = "Continue the text:\n"


@dataclass(frozen=True)
class Passage:
    """One passage of the forget text.

    :param id: The row's id, or the document's id, ``@`` and the index of the plain prompt's first token.
    :param context: Tokens before the continuation, as many as any attack uses, without the tokenizer's start tokens.
    :param shown: How many of the last ones form the plain prompt.
    :param target: Tokens of the true continuation.
    :param is_row: Whether it is a row with its own prompt, without surrounding text.
    :param samples: Ids of the samples that contain tokens of the target.
    """

    id: str
    context: tuple[int, ...]
    shown: int
    target: tuple[int, ...]
    is_row: bool
    samples: frozenset[str]


def make_passages(
    data: DataSet,
    samples: Sequence[Sample],
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompts: int,
    prompt_tokens: int,
    context_tokens: int,
    continuation_tokens: int,
    block_size: int,
) -> list[Passage]:
    """Take passages from a data set, spread evenly over it.

    :param samples: The same data after ``tokenize`` with ``block_size``.
    :param prompts: Maximum number of passages.
    :param prompt_tokens: Length of the plain prompt for plain text; a row's prompt is used whole.
    :param context_tokens: Maximum tokens of plain text that any attack uses, at least ``prompt_tokens``.
    :param continuation_tokens: Maximum tokens of the true continuation.
    :raises DataError: A text is too short, or a row's prompt is empty.
    """
    start = len(text_prefix(tokenizer))
    if any(document.prompt is not None or document.messages is not None for document in data.documents):
        made = make_prompts(
            data, samples, tokenizer, prompts=prompts, prompt_tokens=1, continuation_tokens=continuation_tokens
        )
        return [_from_row(prompt, start, tokenizer) for prompt in made]
    window = context_tokens + continuation_tokens
    longest = max(len(_encode(tokenizer, document.text)) for document in data.documents)
    if longest < window:
        raise DataError(
            f"{data.spec} has at most {longest} consecutive tokens, too few for a context of {context_tokens} "
            f"and a continuation of {continuation_tokens}",
            "Give more text, or lower --prefixes, --prompt-tokens or --continuation-tokens.",
        )
    made = make_prompts(data, samples, tokenizer, prompts=prompts, prompt_tokens=window, continuation_tokens=0)
    return [
        _from_window(prompt, start, prompt_tokens, continuation_tokens, block_size=block_size - start)
        for prompt in made
    ]


def plain(passage: Passage, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """Return the plain prompt, without an attack."""
    return growing(passage, passage.shown, tokenizer)


def growing(passage: Passage, tokens: int, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """Return the last tokens of the context as a prompt, or all of a shorter one."""
    return _prompt(passage.id, passage.context[-tokens:], passage.target, tokenizer)


def rephrased_by_rule(passages: Sequence[Passage], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Prompt]]:
    """Return the prompts of all passages by rule: ``half``, ``lower``, ``bare``, ``instructed``, ``shifted``.

    They are the last half of the words; lower case; no punctuation; an instruction to continue in front; and, for plain
    text, the window moved back by a quarter of a prompt, with its continuation. Prompts that become empty are dropped.
    """
    made: dict[str, list[Prompt]] = {}
    for rule, rewrite in _RULES.items():
        made[rule] = [
            _prompt(passage.id, tokens, passage.target, tokenizer)
            for passage in passages
            if (tokens := _encode(tokenizer, rewrite(_decode(tokenizer, passage.context[-passage.shown :]))))
        ]
    if shifted := [_shifted(passage, tokenizer) for passage in passages if not passage.is_row]:
        made["shifted"] = shifted
    return made


def file_prompts(
    data: DataSet, tokenizer: PreTrainedTokenizerBase, *, block_size: int, continuation_tokens: int
) -> list[tuple[str, Prompt]]:
    """Return every prompt of a file of rephrased prompts, grouped by its answer.

    :param data: Rows with a prompt; rows with the same completion are paraphrases of one prompt.
    :raises DataError: It is plain text, or a row's prompt is empty.
    """
    if any(document.prompt is None and document.messages is None for document in data.documents):
        raise DataError(
            f"{data.spec} does not contain prompts", "Give rows of prompt and completion, or question and answer."
        )
    samples = tokenize(data, tokenizer, block_size)
    answers = {document.id: document.text for document in data.documents}
    made = make_prompts(
        data, samples, tokenizer, prompts=len(samples), prompt_tokens=1, continuation_tokens=continuation_tokens
    )
    return [(answers[prompt.id], prompt) for prompt in made]


def shift_of(prompt_tokens: int) -> int:
    """Return the number of tokens by which ``shifted`` moves a window."""
    return max(1, prompt_tokens // 4)


def _from_row(prompt: Prompt, start: int, tokenizer: PreTrainedTokenizerBase) -> Passage:
    context, target = prompt.input_ids[start:], tuple(_encode(tokenizer, prompt.reference))
    return Passage(prompt.id, context, len(context), target, True, frozenset({prompt.id}))


def _from_window(window: Prompt, start: int, shown: int, continuation: int, *, block_size: int) -> Passage:
    document, _, number = window.id.rpartition("@")
    tokens = window.input_ids[start:]
    context, target = tokens[:-continuation], tokens[-continuation:]
    first = int(number) + len(context)
    blocks = range(first // block_size + 1, (first + continuation - 1) // block_size + 2)
    samples = frozenset(f"{document}#{block}" for block in blocks)
    return Passage(f"{document}@{first - shown}", context, shown, target, False, samples)


def _shifted(passage: Passage, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    shift = shift_of(passage.shown)
    tokens = (*passage.context, *passage.target)[:-shift]
    start = len(tokens) - len(passage.target)
    return _prompt(passage.id, tokens[start - passage.shown : start], tokens[start:], tokenizer)


def _last_half(text: str) -> str:
    starts = [word.start() for word in re.finditer(r"\S+", text)]
    return text[starts[len(starts) // 2] :] if starts else text


_RULES: dict[str, Callable[[str], str]] = {
    "half": _last_half,
    "lower": str.lower,
    "bare": lambda text: re.sub(r"[^\w\s]", "", text),
    "instructed": lambda text: _INSTRUCTION + text,
}
"""Rules that rewrite the text of a prompt."""


def _prompt(id_: str, tokens: Sequence[int], target: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Prompt:
    ids = (*text_prefix(tokenizer), *tokens)
    return Prompt(id_, ids, str(tokenizer.decode(list(ids))), _decode(tokenizer, target))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
