"""Tokenised benchmarks: sequences to score, prompts to continue, and records of the answers' losses.

TOFU's questions are written as its own code writes them for Phi, see ``benchmarks``, or with the chat template, as
open-unlearning does for chat models. Losses are of the answer and its end token given everything before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from taskarith.data.documents import ANSWER_ALONE, Document, RowForm, chat_of
from taskarith.data.load import DataSet
from taskarith.data.tokens import Sample, text_prefix, tokenize
from taskarith.errors import DataError
from taskarith.evaluation.benchmarks import Item, Part
from taskarith.evaluation.prompts import Prompt
from taskarith.evaluation.records import Record, answer_record
from taskarith.progress import SILENT, Listener

__all__ = ["Answers", "TokenisedPart", "answer_records", "ask_part"]

_UNLIMITED = 2**31  # a block size longer than any text, so that texts are not cut


@dataclass(frozen=True)
class Answers:
    """The other answers to one question.

    :param text: Name of the text.
    :param id: Sample id; the right answer is the scored sample with the same id.
    :param paraphrased: The paraphrased right answer; None where the right answer itself is used.
    :param perturbed: Wrong answers.
    """

    text: str
    id: str
    paraphrased: Sample | None
    perturbed: tuple[Sample, ...]

    @property
    def samples(self) -> list[Sample]:
        """All answers, the paraphrase first."""
        return [*([self.paraphrased] if self.paraphrased else []), *self.perturbed]


@dataclass(frozen=True)
class TokenisedPart:
    """One benchmark text, tokenised: samples to score, other answers to score, prompts to continue."""

    samples: tuple[Sample, ...]
    answers: tuple[Answers, ...]
    prompts: tuple[Prompt, ...]


def ask_part(
    part: Part,
    tokenizer: PreTrainedTokenizerBase,
    *,
    positions: int | None,
    form: RowForm = ANSWER_ALONE,
    listener: Listener = SILENT,
) -> TokenisedPart:
    """Tokenise a text of a benchmark.

    :param part: From ``load_benchmark``.
    :param positions: The model's maximum sequence length; None for no limit.
    :param form: Whether to use the tokenizer's chat template, and the system prompt.
    :param listener: Receives a note on what is cut.
    :raises DataError: Samples are too long for the model and may not be cut, or the tokenizer has no chat template.
    """
    items = {item.id: item for item in part.items}
    samples, answers = [], []
    if part.is_scored:
        samples = [
            replace(sample, id=id_) for id_, sample in zip(items, _samples(part, items, tokenizer, form), strict=True)
        ]
        answers = _answers(part, tokenizer, form)
    prompts = []
    if part.new_tokens:
        prefixes = [sample.input_ids[: sample.prompt_length] for sample in samples] or _prefixes(part, tokenizer)
        prompts = [_prompt(part, item, prefix, tokenizer) for item, prefix in zip(part.items, prefixes, strict=True)]
    tokenised = TokenisedPart(tuple(samples), tuple(answers), tuple(prompts))
    if part.is_cut and positions is not None:
        tokenised = _cut(part, tokenised, tokenizer, positions, listener)
    _refuse_long(part, tokenised, positions)
    return tokenised


def answer_records(
    row: str, answers: Sequence[Answers], rights: Mapping[tuple[str, str], float], others: Sequence[float]
) -> list[Record]:
    """Record the mean token loss, in nats, of every answer to each question.

    :param row: Name of the model's row.
    :param rights: Losses of the right answers by text and sample id.
    :param others: Losses of the samples of all ``answers``, in order.
    """
    rest = iter(others)
    records = []
    for question in answers:
        loss = rights[question.text, question.id]
        paraphrased = next(rest) if question.paraphrased else loss
        records.append(
            answer_record(row, question.text, question.id, loss, paraphrased, [next(rest) for _ in question.perturbed])
        )
    return records


def _samples(part: Part, texts: dict[str, Item], tokenizer: PreTrainedTokenizerBase, form: RowForm) -> list[Sample]:
    """Return one sample for each answer or whole text; the keys of ``texts`` name them in errors."""
    documents = tuple(_document(id_, item, form) for id_, item in texts.items())
    samples = tokenize(DataSet(part.name, "", documents), tokenizer, _UNLIMITED)
    if len(samples) < len(documents):
        raise DataError(f"{part.name} has a text of fewer than two tokens", "Download the data set again.")
    return samples


def _document(id_: str, item: Item, form: RowForm) -> Document:
    if form.apply_chat_template and item.question:
        return chat_of(id_, item.question, item.text, form)
    return Document(id_, item.tag + item.text, prompt=item.prompt or None)


def _answers(part: Part, tokenizer: PreTrainedTokenizerBase, form: RowForm) -> list[Answers]:
    others = {
        f"{item.id} of {part.name}, {kind}": replace(item, text=text)
        for item in part.items
        if item.perturbed
        for kind, text in _texts(item)
    }
    if not others:
        return []
    samples = iter(_samples(part, others, tokenizer, form))
    return [
        Answers(
            part.name,
            item.id,
            next(samples) if item.paraphrased else None,
            tuple(next(samples) for _ in item.perturbed),
        )
        for item in part.items
    ]


def _texts(item: Item) -> Iterator[tuple[str, str]]:
    if item.paraphrased:
        yield "paraphrased", item.paraphrased
    for number, text in enumerate(item.perturbed, 1):
        yield f"perturbed {number}", text


def _prefixes(part: Part, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, ...]]:
    start = text_prefix(tokenizer)
    return [(*start, *_encode(tokenizer, item.prompt)) for item in part.items]


def _prompt(part: Part, item: Item, ids: tuple[int, ...], tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """Return a prompt with its true continuation, cut as the benchmark does."""
    reference = item.text
    if part.cuts_truth:
        limit = max(1, part.new_tokens - len(text_prefix(tokenizer)))  # MUSE counts the tokens that start every text
        answer = _encode(tokenizer, item.text)
        reference = _decode(tokenizer, answer[:limit], skip=True) if len(answer) > limit else item.text
    return Prompt(item.id, ids, _decode(tokenizer, ids, skip=False), reference, part.new_tokens, part.ends)


def _cut(
    part: Part, tokenised: TokenisedPart, tokenizer: PreTrainedTokenizerBase, positions: int, listener: Listener
) -> TokenisedPart:
    """Cut samples to their first tokens, and prompts to the tokens that start every text and their last ones.

    Prompts stay as they are where the continuation leaves them no positions.
    """
    start, limit = text_prefix(tokenizer), positions - part.new_tokens
    samples = tuple(replace(sample, input_ids=sample.input_ids[:positions]) for sample in tokenised.samples)
    prompts = tokenised.prompts
    if limit > len(start):
        prompts = tuple(_shortened(prompt, start, limit, tokenizer) for prompt in prompts)
    cut = TokenisedPart(samples, tokenised.answers, prompts)
    before, after = ((*each.samples, *each.prompts) for each in (tokenised, cut))
    if changed := sum(old != new for old, new in zip(before, after, strict=True)):
        action = f"the first {positions} tokens are used" if samples else f"up to {limit} of their last tokens are used"
        listener.note(
            f"{part.name}: {changed} of {len(before)} {'texts' if samples else 'prompts'} are longer than "
            f"the model's {positions} positions; {action}"
        )
    return cut


def _shortened(prompt: Prompt, start: list[int], limit: int, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    if len(prompt.input_ids) <= limit:
        return prompt
    ids = (*start, *prompt.input_ids[len(start) - limit :])
    return replace(prompt, input_ids=ids, text=_decode(tokenizer, ids, skip=False))


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, skip: bool) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=skip, clean_up_tokenization_spaces=False))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _refuse_long(part: Part, tokenised: TokenisedPart, positions: int | None) -> None:
    """Refuse samples and prompts that are too long, rather than cutting them."""
    needed = [(sample.id, len(sample.input_ids)) for sample in tokenised.samples]
    needed += [(sample.id, len(sample.input_ids)) for answers in tokenised.answers for sample in answers.samples]
    needed += [(prompt.id, len(prompt.input_ids) + part.new_tokens) for prompt in tokenised.prompts]
    long = [(id_, length) for id_, length in needed if positions is not None and length > positions]
    if long:
        worst, length = max(long, key=lambda pair: pair[1])
        samples = len(dict.fromkeys(id_ for id_, _ in long))
        raise DataError(
            f"{samples} samples of {part.name} are longer than the model's {positions} positions "
            f"(the longest is {worst}: {length} tokens)",
            "Evaluate a model with a longer context, or a copy of the data without them.",
        )
