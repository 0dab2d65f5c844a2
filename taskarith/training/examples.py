"""Training examples: weighted samples that fit the model, and padded or packed batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from taskarith.data.load import DataSet
from taskarith.data.tokens import Sample, fingerprint_samples, tokenize
from taskarith.errors import MismatchError, UsageError
from taskarith.models.load import Base
from taskarith.progress import SILENT, Listener
from taskarith.training.packing import lay_out
from taskarith.training.settings import TrainingSettings

__all__ = ["IGNORED", "Collator", "Example", "make_examples"]

IGNORED = -100
"""transformers' label of tokens without loss."""


@dataclass(frozen=True)
class Example:
    """A sample with the loss weight of its tokens: 1, or the retain weight.

    :param retained: Whether it is from a retain set.
    """

    sample: Sample
    weight: float = 1.0
    retained: bool = False


class Collator:
    """Pads samples on the right to the longest of a batch.

    :param pad_id: Padding token; it is masked, so any token will do.
    :param weighted: Add ``weights``, float32, and ``retained``, bool, of each token, for ``RetainTrainer``.
    :param packing: Lay several samples on a line where that saves padding, and add ``position_ids``.
    """

    def __init__(self, pad_id: int, *, weighted: bool, packing: bool = False) -> None:
        self.pad_id = pad_id
        self.weighted = weighted
        self.packing = packing

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``labels``, int64 of shape (lines, longest).

        The first label of a sample is always ignored, so that counting labels also counts the shifted ones. Where
        samples share lines, ``position_ids`` begin at 0 with each sample and each token of padding.
        """
        lengths = [len(example.sample.input_ids) for example in examples]
        lines = lay_out(lengths) if self.packing else [[row] for row in range(len(lengths))]
        shape = (len(lines), max(sum(lengths[row] for row in line) for line in lines))
        batch = {
            "input_ids": torch.full(shape, self.pad_id),
            "attention_mask": torch.zeros(shape, dtype=torch.int64),
            "labels": torch.full(shape, IGNORED),
        }
        if self.packing:
            batch["position_ids"] = torch.zeros(shape, dtype=torch.int64)
        if self.weighted:
            batch["weights"], batch["retained"] = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
        for line, rows in enumerate(lines):
            end = 0
            for row in rows:
                place = slice(end, end := end + lengths[row])
                _write(examples[row], {name: values[line, place] for name, values in batch.items()})
        return batch


def _write(example: Example, place: dict[str, torch.Tensor]) -> None:
    """Write a sample to its place in a batch."""
    ids, start = torch.tensor(example.sample.input_ids), max(example.sample.prompt_length, 1)
    place["input_ids"][:] = ids
    place["attention_mask"][:] = 1
    place["labels"][start:] = ids[start:]
    if "position_ids" in place:
        place["position_ids"][:] = torch.arange(len(ids))
    if "weights" in place:
        place["weights"][:] = example.weight
        place["retained"][:] = example.retained


def make_examples(
    base: Base,
    learned: Sequence[DataSet],
    retained: Sequence[DataSet],
    settings: TrainingSettings,
    listener: Listener = SILENT,
) -> tuple[list[Example], dict[str, Any]]:
    """Tokenise data sets and retain sets, and check that they fit the model.

    :param base: The model to train.
    :param learned: Data sets, with weight 1.
    :param retained: Retain sets, with the retain weight.
    :param settings: Block size, stride, retain weight, and how batches are made.
    :param listener: Receives notes on data that cannot be learned, and on settings that change nothing.
    :return: The examples, and a record of each set for provenance.
    :raises UsageError: The block is longer than the model has positions; or a stride is given, but no plain text.
    :raises MismatchError: The tokenizer yields tokens beyond the model's vocabulary.
    :raises DataError: A row does not fit the block or the chat template.
    """
    if base.positions is not None and base.positions < settings.block_size:
        raise UsageError(
            f"--block-size {settings.block_size} exceeds the {base.positions} positions of {base.origin.name}",
            f"Use at most {base.positions}.",
        )
    documents = [document for data in (*learned, *retained) for document in data.documents]
    if settings.stride is not None and all(document.prompt is not None or document.messages for document in documents):
        raise UsageError("--stride is set, but the data are rows, which are never cut into blocks", "Leave it out.")
    examples: list[Example] = []
    record: dict[str, Any] = {"data": [], "retain": []}
    for part, sets, weight in (("data", learned, 1.0), ("retain", retained, settings.retain_weight)):
        for data in sets:
            samples = tokenize(data, base.tokenizer, settings.block_size, listener, settings.stride)
            examples += [Example(sample, weight, part == "retain") for sample in samples]
            record[part].append(
                {
                    **data.record(),
                    "token_fingerprint": fingerprint_samples(samples),
                    "documents": len(data.documents),
                    "samples": len(samples),
                    "tokens": sum(len(sample.input_ids) for sample in samples),
                }
            )
    rows = getattr(base.config.get_text_config(), "vocab_size", None)
    largest = max(max(example.sample.input_ids) for example in examples)
    if rows is not None and largest >= rows:
        raise MismatchError(
            f"the tokenizer of {base.origin.name} yields token {largest}, but the model has only {rows} tokens",
            "Use the tokenizer that belongs to the model.",
        )
    if remark := _remark_on_padding([len(example.sample.input_ids) for example in examples], settings):
        listener.note(remark)
    return examples, record


def _remark_on_padding(lengths: Sequence[int], settings: TrainingSettings) -> str | None:
    """Say if there is no padding that could be saved."""
    options = [name for name in ("packing", "group_by_length") if getattr(settings, name)]
    if not options:
        return None
    option = f"--{options[0].replace('_', '-')}"
    if settings.per_device_train_batch_size == 1:
        return f"{option} changes nothing: a batch of one row has no padding"
    if sum(length < max(lengths) for length in lengths) <= 1:
        return f"{option} changes nothing: rows of {max(lengths)} tokens each have no padding"
    return None
