"""Benchmarks as one model sees them: sequences to score, prompts to continue, and the records of its answers.

A question of TOFU is asked as its own code asks Phi, see ``benchmarks``, or through the chat template, as
open-unlearning asks chat models. Losses are of the answer and its end token given all before it.
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
from taskarith.evaluation.generation import Prompt
from taskarith.evaluation.records import Record, answer_record
from taskarith.progress import SILENT, Listener

__all__ = ["Answers", "Asked", "answer_records", "ask_part"]

_UNLIMITED = 2**31  # a block that nothing is longer than: texts are not cut


@dataclass(frozen=True)
class Answers:
    """The answers to one question beside the right one.

    :param text: Name of the text.
    :param id: Of the sample; the right answer is the scored sample of the same id.
    :param paraphrased: The right answer in other words; None where the right one stands for it.
    :param perturbed: Wrong answers.
    """

    text: str
    id: str
    paraphrased: Sample | None
    perturbed: tuple[Sample, ...]

    @property
    def samples(self) -> list[Sample]:
        """All of them, the paraphrase first."""
        return [*([self.paraphrased] if self.paraphrased else []), *self.perturbed]


@dataclass(frozen=True)
class Asked:
    """What a model is asked of one text: samples to score, other answers to score, prompts to continue."""

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
) -> Asked:
    """Tokenise a text of a benchmark.

    :param part: From ``load_benchmark``.
    :param positions: The longest sequence that the model can take; None where there is no limit.
    :param form: Whether questions are put into the tokenizer's chat template, and after which system prompt.
    :param listener: Receives a note of what is cut.
    :raises DataError: Samples are longer than the model takes and may not be cut, or there is no chat template.
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
    asked = Asked(tuple(samples), tuple(answers), tuple(prompts))
    if part.is_cut and positions is not None:
        asked = _cut(part, asked, tokenizer, positions, listener)
    _refuse_long(part, asked, positions)
    return asked


def answer_records(
    row: str, answers: Sequence[Answers], rights: Mapping[tuple[str, str], float], others: Sequence[float]
) -> list[Record]:
    """Record what a model gives to the answers of each question, as mean losses of their tokens in nats.

    :param row: Name of the model's row.
    :param rights: Text and sample id to the loss of the right answer.
    :param others: Losses of the samples of all ``answers``, one after the other.
    """
    rest = iter(others)
    records = []
    for each in answers:
        loss = rights[each.text, each.id]
        paraphrased = next(rest) if each.paraphrased else loss
        records.append(answer_record(row, each.text, each.id, loss, paraphrased, [next(rest) for _ in each.perturbed]))
    return records


def _samples(part: Part, texts: dict[str, Item], tokenizer: PreTrainedTokenizerBase, form: RowForm) -> list[Sample]:
    """Return one sample for each answer, or whole text, by the id that it has in errors."""
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
        f"{item.id} of {part.name}, {what}": replace(item, text=text)
        for item in part.items
        if item.perturbed
        for what, text in _texts(item)
    }
    if not others:
        return []
    found = iter(_samples(part, others, tokenizer, form))
    return [
        Answers(
            part.name,
            item.id,
            next(found) if item.paraphrased else None,
            tuple(next(found) for _ in item.perturbed),
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
    """Return a prompt with the true continuation, cut where the benchmark cuts it."""
    reference = item.text
    if part.cuts_truth:
        room = max(1, part.new_tokens - len(text_prefix(tokenizer)))  # MUSE counts the tokens put before every text
        answer = _encode(tokenizer, item.text)
        reference = _decode(tokenizer, answer[:room], skip=True) if len(answer) > room else item.text
    return Prompt(item.id, ids, _decode(tokenizer, ids, skip=False), reference, part.new_tokens, part.ends)


def _cut(part: Part, asked: Asked, tokenizer: PreTrainedTokenizerBase, positions: int, listener: Listener) -> Asked:
    """Cut samples to their first tokens, and prompts to those that the tokenizer puts before all texts and their last.

    What cannot be cut so far that something is left of it stays as it is.
    """
    start, room = text_prefix(tokenizer), positions - part.new_tokens
    samples = tuple(replace(sample, input_ids=sample.input_ids[:positions]) for sample in asked.samples)
    prompts = asked.prompts
    if room > len(start):
        prompts = tuple(_shortened(prompt, start, room, tokenizer) for prompt in prompts)
    cut = Asked(samples, asked.answers, prompts)
    before, after = ((*each.samples, *each.prompts) for each in (asked, cut))
    if changed := sum(old != new for old, new in zip(before, after, strict=True)):
        what = f"the first {positions} tokens are taken" if samples else f"the last tokens, up to {room}, are shown"
        listener.note(
            f"{part.name}: {changed} of {len(before)} {'texts' if samples else 'prompts'} are longer than the "
            f"{positions} positions of the model; {what}"
        )
    return cut


def _shortened(prompt: Prompt, start: list[int], room: int, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    if len(prompt.input_ids) <= room:
        return prompt
    ids = (*start, *prompt.input_ids[len(start) - room :])
    return replace(prompt, input_ids=ids, text=_decode(tokenizer, ids, skip=False))


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, skip: bool) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=skip, clean_up_tokenization_spaces=False))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _refuse_long(part: Part, asked: Asked, positions: int | None) -> None:
    """Refuse what does not fit, rather than to cut it off."""
    needed = [(sample.id, len(sample.input_ids)) for sample in asked.samples]
    needed += [(sample.id, len(sample.input_ids)) for answers in asked.answers for sample in answers.samples]
    needed += [(prompt.id, len(prompt.input_ids) + part.new_tokens) for prompt in asked.prompts]
    long = [(id_, length) for id_, length in needed if positions is not None and length > positions]
    if long:
        worst, length = max(long, key=lambda pair: pair[1])
        samples = len(dict.fromkeys(id_ for id_, _ in long))
        raise DataError(
            f"{samples} samples of {part.name} are longer than the {positions} positions of the model "
            f"(the longest is {worst}: {length} tokens)",
            "Evaluate a model with a longer context, or a copy of the data without them.",
        )
