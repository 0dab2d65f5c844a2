"""Training examples: weighted samples that fit the model, and padded batches of them."""

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
    :param weighted: Add ``weights``, float32, and ``retained``, bool, of shape (batch,), for ``RetainTrainer``.
    """

    def __init__(self, pad_id: int, *, weighted: bool) -> None:
        self.pad_id = pad_id
        self.weighted = weighted

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``labels``, int64 of shape (batch, longest).

        The first label of a row is always ignored, so that counting labels also counts the shifted ones.
        """
        longest = max(len(example.sample.input_ids) for example in examples)
        shape = (len(examples), longest)
        batch = {
            "input_ids": torch.full(shape, self.pad_id),
            "attention_mask": torch.zeros(shape, dtype=torch.int64),
            "labels": torch.full(shape, IGNORED),
        }
        for row, example in enumerate(examples):
            ids, start = torch.tensor(example.sample.input_ids), max(example.sample.prompt_length, 1)
            batch["input_ids"][row, : len(ids)] = ids
            batch["attention_mask"][row, : len(ids)] = 1
            batch["labels"][row, start : len(ids)] = ids[start:]
        if self.weighted:
            batch["weights"] = torch.tensor([example.weight for example in examples])
            batch["retained"] = torch.tensor([example.retained for example in examples])
        return batch


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
    :param settings: Block size and retain weight.
    :param listener: Receives notes on data that cannot be learned.
    :return: The examples, and a record of each set for provenance.
    :raises UsageError: The block is longer than the model has positions.
    :raises MismatchError: The tokenizer yields tokens beyond the model's vocabulary.
    :raises DataError: A row does not fit the block or the chat template.
    """
    text = base.config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and 0 < positions < settings.block_size:  # XLNet has -1 for no limit
        raise UsageError(
            f"--block-size {settings.block_size} exceeds the {positions} positions of {base.origin.name}",
            f"Use at most {positions}.",
        )
    examples: list[Example] = []
    record: dict[str, Any] = {"data": [], "retain": []}
    for part, sets, weight in (("data", learned, 1.0), ("retain", retained, settings.retain_weight)):
        for data in sets:
            samples = tokenize(data, base.tokenizer, settings.block_size, listener)
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
    rows = getattr(text, "vocab_size", None)
    largest = max(max(example.sample.input_ids) for example in examples)
    if rows is not None and largest >= rows:
        raise MismatchError(
            f"the tokenizer of {base.origin.name} yields token {largest}, but the model has only {rows} tokens",
            "Use the tokenizer that belongs to the model.",
        )
    return examples, record
