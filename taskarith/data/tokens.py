"""Tokenised samples of documents: blocks of plain text, prompts with completions, and chats."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from taskarith.checkpoints.reader import fingerprint_bytes
from taskarith.data.documents import Document
from taskarith.data.load import DataSet
from taskarith.data.templates import Rendering, common_length, remark_on_day, render_chat
from taskarith.errors import DataError, UsageError, name_some
from taskarith.progress import SILENT, Listener

__all__ = ["Sample", "fingerprint_samples", "text_prefix", "tokenize"]


@dataclass(frozen=True)
class Sample:
    """One sequence to learn from.

    :param id: The document's id, followed by ``#`` and the number (from 1) for a block of plain text.
    :param input_ids: At least two tokens, at most a block.
    :param prompt_length: Number of context tokens: the loss is on ``input_ids[prompt_length:]``, and never on the first
        token, which has no context.
    :param end_tokens: Number of last tokens that only end the text: the EOS token of a completion, and what a chat
        template writes after an answer. They are learned, but are not part of the text.
    """

    id: str
    input_ids: tuple[int, ...]
    prompt_length: int
    end_tokens: int = 0


def tokenize(
    data: DataSet,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    listener: Listener = SILENT,
    stride: int | None = None,
) -> list[Sample]:
    """Turn documents into samples of at most ``block_size`` tokens.

    Plain text is cut into consecutive blocks, each starting with the tokens the tokenizer puts before a text (its BOS
    token, if any), which count towards the block. A remainder of fewer than two tokens is dropped. With a stride,
    blocks overlap, and what a block shares with the one before is its context: every token is learned once. A prompt
    with a completion is one sample: those tokens, prompt, completion, and EOS unless the completion ends with it. A
    chat is rendered by the tokenizer's chat template, see ``render_chat``, and only the last answer is learned; a
    question written as a chat also gets EOS, unless it ends with it, and only that token counts as its end, as in
    open-unlearning. Prompt and completion are tokenised as one text; the prompt is the common prefix with the prompt
    tokenised alone, so a token across the border is learned.

    :param data: The documents.
    :param tokenizer: The model's tokenizer.
    :param block_size: Maximum tokens of a sample.
    :param listener: Receives notes on what a template or tokenizer cannot represent.
    :param stride: Tokens from the start of a block to that of the next; None for blocks that do not overlap.
    :raises DataError: A prompt with its completion, or a chat, is longer than a block (nothing is cut off silently);
        the tokenizer has no chat template, or its template refuses a chat or leaves something out; the tokenizer
        cannot represent a text at all; or nothing is left to learn.
    :raises UsageError: ``block_size`` is too small for text, or ``stride`` is too large for it.
    """
    prefix = text_prefix(tokenizer)
    if block_size < len(prefix) + 2:
        raise UsageError(f"--block-size {block_size} is too small for text", f"Use at least {len(prefix) + 2} tokens.")
    capacity = block_size - len(prefix)
    if stride is not None and not 1 <= stride <= capacity:
        raise UsageError(
            f"--stride {stride} would leave text out: a block holds {capacity} tokens of it",
            f"Use from 1 to {capacity} tokens, or leave it out for blocks that do not overlap.",
        )
    samples: list[Sample] = []
    special = _special_ids(tokenizer)
    without_reasoning, lossy = [], []
    for document in data.documents:
        if document.messages is not None:
            rendering = render_chat(document, tokenizer)
            without_reasoning += [document.id] if rendering.drops_reasoning else []
            new = [_chat_sample(document, rendering, special, tokenizer)]
            text, learned = rendering.learned, new[0].input_ids[new[0].prompt_length :]
        elif document.prompt is not None:
            new = [_with_end(_completion_sample(document, document.prompt, tokenizer, prefix), special, tokenizer)]
            text, learned = document.text, new[0].input_ids[new[0].prompt_length :]
        else:
            text, learned = document.text, tuple(_ids(tokenizer, document.text))
            new = list(_blocks(document.id, learned, capacity, stride or capacity, prefix))
        samples += new
        lossy += [document.id] if _loses_letters(document, text, learned, tokenizer) else []
    if not samples:
        raise DataError(f"{data.spec} is too short: it has fewer than two tokens", "Give more text.")
    _refuse_long(samples, block_size, data.spec)
    _refuse_idle(samples)
    _report(data, without_reasoning, lossy, listener)
    if data.has_chats and (remark := remark_on_day(tokenizer)):
        listener.note(f"{data.spec}: {remark}")
    return samples


def fingerprint_samples(samples: Iterable[Sample]) -> str:
    """Return a fingerprint of the ids, tokens and prompt lengths of samples; 32 hex digits."""
    return fingerprint_bytes(
        json.dumps([[sample.id, sample.prompt_length, sample.input_ids] for sample in samples]).encode()
    )


def text_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special tokens that the tokenizer puts before every text: its BOS token, or none."""
    bare = _ids(tokenizer, "a")
    with_special = list(tokenizer("a").input_ids)
    for start in range(len(with_special) - len(bare) + 1):
        if with_special[start : start + len(bare)] == bare:
            return with_special[:start]
    return []


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _blocks(id_: str, ids: tuple[int, ...], capacity: int, stride: int, prefix: list[int]) -> Iterator[Sample]:
    overlap = capacity - stride
    for number, start in enumerate(range(0, max(len(ids) - overlap, min(len(ids), 1)), stride), 1):
        block = (*prefix, *ids[start : start + capacity])
        if len(block) >= 2:
            yield Sample(f"{id_}#{number}", block, len(prefix) + (overlap if start else 0))


def _chat_sample(
    document: Document, rendering: Rendering, special: Collection[int], tokenizer: PreTrainedTokenizerBase
) -> Sample:
    sample = _split(document.id, rendering.prompt, rendering.whole, tokenizer)
    if not document.ends_with_eos or tokenizer.eos_token_id is None:
        return _with_end(sample, special, tokenizer)
    end = [] if sample.input_ids[-1] == tokenizer.eos_token_id else [tokenizer.eos_token_id]
    return replace(sample, input_ids=(*sample.input_ids, *end), end_tokens=1)


def _completion_sample(
    document: Document, prompt: str, tokenizer: PreTrainedTokenizerBase, prefix: list[int]
) -> Sample:
    sample = _split(document.id, prompt, prompt + document.text, tokenizer)
    end = [tokenizer.eos_token_id]
    if tokenizer.eos_token_id is None or sample.input_ids[-1] == tokenizer.eos_token_id:
        end = []
    return Sample(document.id, (*prefix, *sample.input_ids, *end), len(prefix) + sample.prompt_length)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that are never text: BOS, EOS, and those that a chat template puts between messages."""
    added = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {*tokenizer.all_special_ids, *added}


def _with_end(sample: Sample, special: Collection[int], tokenizer: PreTrainedTokenizerBase) -> Sample:
    """Set the number of tokens that only end a sample: special ones, and white space between and after them."""
    ids = sample.input_ids
    first = end = len(ids)
    while end > sample.prompt_length:
        end -= 1
        if ids[end] in special:
            first = end
        elif str(tokenizer.decode([ids[end]])).strip():
            break
    return replace(sample, end_tokens=len(ids) - first)


def _split(id_: str, prompt: str, whole: str, tokenizer: PreTrainedTokenizerBase) -> Sample:
    """Tokenise a text and count the first tokens that belong to its prompt."""
    ids, alone = _ids(tokenizer, whole), _ids(tokenizer, prompt)
    return Sample(id_, tuple(ids), common_length(ids, alone))


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
                f"{sample.id} has nothing to learn: all of it is prompt", "Check the row and the chat template."
            )


# --- text that cannot be learned -------------------------------------------------------------------------------------


def _loses_letters(document: Document, text: str, learned: tuple[int, ...], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether decoding a text's tokens loses letters or digits.

    :param text: The text to learn.
    :param learned: Its tokens; the first may also contain the end of the prompt.
    :raises DataError: The document's text is lost completely.
    """
    decoded = str(tokenizer.decode(list(learned), clean_up_tokenization_spaces=False))
    if text in decoded or _letters(text) in _letters(decoded):
        return False
    ids, unknown = _ids(tokenizer, document.text), tokenizer.unk_token_id
    if all(token == unknown for token in ids):
        raise DataError(
            f"the tokenizer turns all of the text of {document.id} into unknown tokens",
            "Use a model whose tokenizer supports this language, or remove the row.",
        )
    return True


def _letters(text: str) -> str:
    """Return only letters and digits, without accents and case, which many tokenizers change."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text).casefold() if letter.isalnum())


def _report(data: DataSet, without_reasoning: list[str], lossy: list[str], listener: Listener) -> None:
    """Note once per data set what cannot be learned.

    :param without_reasoning: Ids of chats whose reasoning the template leaves out.
    :param lossy: Ids of documents with characters unknown to the tokenizer.
    """
    count = len(data.documents)
    if without_reasoning:
        listener.note(
            f"{data.spec}: the chat template leaves out the reasoning of {len(without_reasoning)} of {count} answers "
            f"({name_some(without_reasoning, 1)}); only the rest is learned"
        )
    if lossy:
        listener.note(
            f"{data.spec}: the tokenizer does not know all characters of {len(lossy)} of {count} texts "
            f"({name_some(lossy, 1)}); they are left out or become unknown tokens"
        )
