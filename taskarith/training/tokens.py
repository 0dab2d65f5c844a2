"""Documents to token samples: blocks of plain text, prompts with completions, chats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from taskarith.errors import DataError, UsageError
from taskarith.training.data import DataSet
from taskarith.training.documents import Document

__all__ = ["Sample", "text_prefix", "tokenize"]


@dataclass(frozen=True)
class Sample:
    """One sequence to learn from.

    :param id: The document's id; a block of a plain text has ``#`` and its number (the first is 1) after it.
    :param input_ids: At least two tokens, at most a block.
    :param prompt_length: Tokens that are context only: the loss is on ``input_ids[prompt_length:]``, and never on the
        first token, which has no context.
    """

    id: str
    input_ids: tuple[int, ...]
    prompt_length: int


def tokenize(data: DataSet, tokenizer: PreTrainedTokenizerBase, block_size: int) -> list[Sample]:
    """Turn documents into samples of at most ``block_size`` tokens.

    A plain text is cut in consecutive blocks; each starts with the tokens that this tokenizer puts before a text (its
    BOS token, if it has that habit), which count towards the block. A remainder shorter than two tokens is left out.
    A prompt with a completion is one sample: those tokens, prompt, completion, EOS. A chat is what the tokenizer's
    chat template makes of it, and only the last answer is learned. Prompt and completion are tokenised as one text;
    the prompt's part is what it has in common with the prompt tokenised alone, so a token across the border is learned.

    :param data: The documents.
    :param tokenizer: Of the model to be trained.
    :param block_size: Largest number of tokens of a sample.
    :raises DataError: A prompt with its completion, or a chat, is longer than a block (nothing is cut off silently);
        the tokenizer has no chat template or its template refuses a chat; or nothing is left to learn.
    :raises UsageError: ``block_size`` leaves no room for text.
    """
    prefix = text_prefix(tokenizer)
    if block_size < len(prefix) + 2:
        raise UsageError(
            f"block_size {block_size} leaves no room for text", f"Use a block of {len(prefix) + 2} tokens or more."
        )
    samples: list[Sample] = []
    for document in data.documents:
        if document.messages is not None:
            samples.append(_chat_sample(document, tokenizer))
        elif document.prompt is not None:
            samples.append(_completion_sample(document, document.prompt, tokenizer, prefix))
        else:
            samples.extend(_blocks(document, tokenizer, block_size, prefix))
    if not samples:
        raise DataError(f"{data.spec} is too short: it has fewer than two tokens", "Give more text.")
    _refuse_long(samples, block_size, data.spec)
    _refuse_idle(samples)
    return samples


def text_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special tokens that this tokenizer puts before every text: its BOS token, or none."""
    bare = _ids(tokenizer, "a")
    dressed = list(tokenizer("a").input_ids)
    for start in range(len(dressed) - len(bare) + 1):
        if dressed[start : start + len(bare)] == bare:
            return dressed[:start]
    return []


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _blocks(
    document: Document, tokenizer: PreTrainedTokenizerBase, block_size: int, prefix: list[int]
) -> Iterator[Sample]:
    ids, room = _ids(tokenizer, document.text), block_size - len(prefix)
    for number, start in enumerate(range(0, len(ids), room), 1):
        block = (*prefix, *ids[start : start + room])
        if len(block) >= 2:
            yield Sample(f"{document.id}#{number}", block, len(prefix))


def _completion_sample(
    document: Document, prompt: str, tokenizer: PreTrainedTokenizerBase, prefix: list[int]
) -> Sample:
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    sample = _split(document.id, prompt, prompt + document.text, tokenizer)
    return Sample(document.id, (*prefix, *sample.input_ids, *end), len(prefix) + sample.prompt_length)


def _chat_sample(document: Document, tokenizer: PreTrainedTokenizerBase) -> Sample:
    messages = list(document.messages or ())
    if not tokenizer.chat_template:
        raise DataError(
            f"{document.id} is a chat, but the model's tokenizer has no chat template",
            "Use a chat model, or write the rows as prompt and completion.",
        )
    try:
        whole = _render(messages, tokenizer, prompt=False)
        prompt = _render(messages[:-1], tokenizer, prompt=True)
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"the chat template refuses {document.id}: {error}", "Write the chat in the roles and order it knows."
        ) from error
    return _split(document.id, prompt[: _common(prompt, whole)], whole, tokenizer)


def _render(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, *, prompt: bool) -> str:
    if not messages and prompt:
        return ""
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))


def _split(id_: str, prompt: str, whole: str, tokenizer: PreTrainedTokenizerBase) -> Sample:
    """Tokenise a text and find how many of its first tokens are those of its prompt."""
    ids, alone = _ids(tokenizer, whole), _ids(tokenizer, prompt)
    return Sample(id_, tuple(ids), _common(ids, alone))


def _common(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return how many items two sequences have in common from their start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _refuse_long(samples: list[Sample], block_size: int, spec: str) -> None:
    long = [sample for sample in samples if len(sample.input_ids) > block_size]
    if long:
        worst = max(long, key=lambda sample: len(sample.input_ids))
        needed = len(worst.input_ids)
        raise DataError(
            f"{len(long)} of {len(samples)} rows of {spec} are longer than a block of {block_size} tokens "
            f"(the longest is {worst.id}: {needed})",
            f"Raise the block to --block-size {needed}, or shorten or split those rows.",
        )


def _refuse_idle(samples: list[Sample]) -> None:
    for sample in samples:
        if max(sample.prompt_length, 1) >= len(sample.input_ids):
            raise DataError(
                f"nothing in {sample.id} can be learned: all of it is prompt", "Check the row and the chat template."
            )
