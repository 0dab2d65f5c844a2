"""What a model answers on test inputs: losses of the true tokens, and outputs at a few positions of each input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from taskarith.data.load import check_form, load_data
from taskarith.data.tokens import Sample, tokenize
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.errors import CheckpointError, DataError, UsageError
from taskarith.evaluation.batches import batch_start, in_batches, pad
from taskarith.evaluation.grouping import grouping_of_scoring
from taskarith.evaluation.models import Loaded, open_model, parse_dtype
from taskarith.models.device import choose_device
from taskarith.models.runtime import Runtime
from taskarith.progress import Listener
from taskarith.relations.inputs import TestInputs
from taskarith.relations.vectors import Related

__all__ = ["Answer", "Probe", "alone", "cut_inputs", "open_lab"]

_POSITIONS = 8
"""Positions of an input at which whole outputs are compared: a vocabulary of float32 each."""


@dataclass(frozen=True)
class Answer:
    """One model on one input.

    :param losses: Negative log-likelihoods of the true tokens in nats, float64 (tokens,).
    :param entropy: Mean entropy of the next-token distributions in nats.
    :param states: Last hidden states at a few positions, float32 (positions, width).
    :param logits: Outputs there, float32 (positions, vocabulary).
    :param targets: The true tokens there, int64 (positions,).
    """

    losses: np.ndarray
    entropy: float
    states: np.ndarray
    logits: np.ndarray
    targets: np.ndarray


def cut_inputs(loaded: Loaded, data: Mapping[str, str], cut: TestInputs) -> dict[str, list[Sample]]:
    """Cut texts into inputs, and keep at most so many of each, spread evenly.

    :param data: Names of the texts, and where they are.
    :param cut: How long the inputs are, and how many.
    :raises DataError: A text is missing, or too short for two scored tokens.
    :raises UsageError: A block is longer than the model has positions, or a number is out of range; or a chat template
        or system prompt is asked for, but no text is a chat.
    """
    cut.check()
    loaded.check_block(cut.block_size)
    texts = {name: load_data(spec, cut.form) for name, spec in data.items()}
    check_form(cut.form, texts.values())
    found = {}
    for name, text in texts.items():
        samples = [one for one in tokenize(text, loaded.tokenizer, cut.block_size) if _scored(one) > 2]
        if not samples:
            raise DataError(f"{text.spec} has no input with three scored tokens", "Give more text.")
        chosen = np.unique(np.linspace(0, len(samples) - 1, cut.inputs).round().astype(int))
        found[name] = [samples[index] for index in chosen]
    return found


@dataclass(frozen=True)
class Probe:
    """A loaded model that is edited in memory and asked.

    :param loaded: The base of the vectors.
    :param related: The vectors.
    :param listener: Receives progress updates.
    """

    loaded: Loaded
    related: Related
    listener: Listener

    def ask(self, weights: Sequence[float], tasks: Sequence[Sequence[Sample]], what: str) -> list[list[Answer]]:
        """Return the answers of ``base + sum of weight * vector`` on the inputs of some tasks.

        :param weights: One for each vector.
        :param what: Names the model for the listener.
        """
        total, done = sum(map(len, tasks)), 0

        def on_input(count: int) -> None:
            nonlocal done
            done += count
            self.listener.progress(f"answering | {what}", done, total)

        self._set(weights)
        return [_answer(self.loaded, task, on_input) for task in tasks]

    def losses(self, weights: Sequence[float], task: Sequence[Sample], what: str) -> np.ndarray:
        """Return the mean loss of each input of a task, in nats, float64."""
        return np.array([one.losses.mean() for one in self.ask(weights, [task], what)[0]])

    def _set(self, weights: Sequence[float]) -> None:
        """Edit the model; a vector of weight 0 takes part, so that what it moved before is as in the base again."""
        operands = [
            replace(reference, coefficient=reference.coefficient * weight)
            for reference, weight in zip(self.related.references, weights, strict=True)
        ]
        InMemoryEdit(self.loaded.model, str(self.loaded.resolved.path), operands=operands).set(1.0)


def open_lab(related: Related, runtime: Runtime, listener: Listener) -> Probe:
    """Load the base of the vectors.

    :raises UsageError: The dtype or device is unknown, or the model is an adapter.
    :raises CheckpointError: It cannot be loaded.
    :raises MismatchError: It is another model than the one that a vector records.
    """
    related.check_base(listener)
    place, precision = choose_device(runtime.device), parse_dtype(runtime.dtype)
    loaded = open_model(related.model, place, precision, listener, trust_remote_code=runtime.trust_remote_code)
    if loaded.adapter is not None:
        raise UsageError(f"{related.model} is an adapter", "Name the base of the vectors with --model.")
    return Probe(loaded, related, listener)


def alone(index: int, count: int) -> list[float]:
    """Return the weights of one vector alone."""
    return [float(number == index) for number in range(count)]


def _answer(loaded: Loaded, samples: Sequence[Sample], on_input: Callable[[int], None]) -> list[Answer]:
    """Run a model over inputs, teacher-forced; what it says is taken in float32.

    :param on_input: Told the number of inputs of each finished batch.
    :raises CheckpointError: A loss is not finite.
    """
    rows = [sample.input_ids for sample in samples]

    def run(batch: list[int]) -> list[Answer]:
        found = _answer_batch(loaded, [samples[index] for index in batch])
        on_input(len(batch))
        return found

    size = batch_start(loaded.model, max(map(len, rows)), cached=False)
    with torch.inference_mode():
        grouping = grouping_of_scoring(loaded.model, rows)
        answers = in_batches(list(map(len, rows)), run, size, shrink=True, grouping=grouping)
    for sample, one in zip(samples, answers, strict=True):
        if not np.isfinite(one.losses).all():
            raise CheckpointError(
                f"a loss of {sample.id} is not finite", "Weights are broken or overflow: use --dtype float32."
            )
    return answers


def _answer_batch(loaded: Loaded, samples: Sequence[Sample]) -> list[Answer]:
    ids, mask = pad([sample.input_ids for sample in samples], loaded.model.device, left=False)
    given = loaded.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    answers = []
    for row, sample in enumerate(samples):
        first, last = max(sample.prompt_length, 1), len(sample.input_ids)
        logits = given.logits[row, first - 1 : last - 1].float()
        scores = torch.log_softmax(logits, -1)
        losses = -scores.gather(1, ids[row, first:last, None])[:, 0]
        entropy = -(scores.exp() * scores).sum(-1).mean()
        few = torch.linspace(0, last - first - 1, min(_POSITIONS, last - first)).round().long().to(logits.device)
        states = given.hidden_states[-1][row, first - 1 : last - 1].float()
        answers.append(
            Answer(
                losses.cpu().double().numpy(),
                float(entropy),
                states[few].cpu().numpy(),
                logits[few].cpu().numpy(),
                ids[row, first:last][few].cpu().numpy(),
            )
        )
    return answers


def _scored(sample: Sample) -> int:
    return len(sample.input_ids) - max(sample.prompt_length, 1)
