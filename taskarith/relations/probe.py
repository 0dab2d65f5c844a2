"""A model's answers on test inputs: losses of the true tokens, and outputs at a positions positions of each input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from taskarith.checkpoints.team import ALONE, Team
from taskarith.data.load import check_form, load_data
from taskarith.data.tokens import Sample, tokenize
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.errors import CheckpointError, DataError, UsageError
from taskarith.evaluation.batches import batch_start, in_batches, pad
from taskarith.evaluation.grouping import grouping_of_scoring
from taskarith.evaluation.models import Loaded, open_together
from taskarith.models.runtime import Runtime
from taskarith.progress import Listener
from taskarith.relations.inputs import TestInputs
from taskarith.relations.vectors import Related

__all__ = ["Answer", "Probe", "alone", "cut_inputs", "open_probe"]

_Part = TypeVar("_Part")

_POSITIONS = 8
"""Positions of an input at which whole outputs, a float32 vocabulary each, are compared."""


@dataclass(frozen=True)
class Answer:
    """One model's answer on one input.

    :param losses: Negative log-likelihoods of the true tokens in nats, float64 (tokens,).
    :param entropy: Mean entropy of the next-token distributions in nats.
    :param states: Last hidden states at a positions positions, float32 (positions, width).
    :param logits: Logits at these positions, float32 (positions, vocabulary).
    :param targets: True tokens at these positions, int64 (positions,).
    """

    losses: np.ndarray
    entropy: float
    states: np.ndarray
    logits: np.ndarray
    targets: np.ndarray


def cut_inputs(loaded: Loaded, data: Mapping[str, str], cut: TestInputs) -> dict[str, list[Sample]]:
    """Cut texts into inputs, and keep evenly spread ones of each.

    :param data: Names of the texts and their specs.
    :param cut: Length and maximum number of the inputs.
    :raises DataError: A text is missing, or too short for two scored tokens.
    :raises UsageError: A block is longer than the model has positions, a number is out of range, or a chat template or
        system prompt is outputs although no text is a chat.
    """
    cut.check()
    loaded.check_block(cut.block_size)
    texts = {name: load_data(spec, cut.form) for name, spec in data.items()}
    check_form(cut.form, texts.values())
    inputs = {}
    for name, text in texts.items():
        samples = [sample for sample in tokenize(text, loaded.tokenizer, cut.block_size) if _scored(sample) > 2]
        if not samples:
            raise DataError(f"{text.spec} is too short for an input with three scored tokens", "Give more text.")
        chosen = np.unique(np.linspace(0, len(samples) - 1, cut.inputs).round().astype(int))
        inputs[name] = [samples[index] for index in chosen]
    return inputs


@dataclass(frozen=True)
class Probe:
    """A model to edit in memory and measure on test inputs.

    :param loaded: The base of the vectors.
    :param related: The vectors.
    :param listener: Receives progress updates.
    :param team: The processes that make all calls, and share the inputs; all get all answers.
    """

    loaded: Loaded
    related: Related
    listener: Listener
    team: Team = ALONE

    def ask(self, weights: Sequence[float], tasks: Sequence[Sequence[Sample]], name: str) -> list[list[Answer]]:
        """Return the answers of ``base + sum of weight * vector`` on the inputs of some tasks.

        :param weights: One per vector.
        :param name: Name of the model, for the listener.
        :raises CheckpointError: A loss is not finite.
        """
        return self._run(weights, tasks, name, lambda answer: answer)

    def losses(self, weights: Sequence[float], task: Sequence[Sample], name: str) -> np.ndarray:
        """Return the mean loss of each input of a task, in nats, float64; otherwise as ``ask``."""
        return np.array(self._run(weights, [task], name, lambda answer: float(answer.losses.mean()))[0])

    def _run(
        self, weights: Sequence[float], tasks: Sequence[Sequence[Sample]], name: str, part: Callable[[Answer], _Part]
    ) -> list[list[_Part]]:
        """Return a part of each answer, which is all that processes tell each other."""
        total, done = sum(map(len, tasks)), 0

        def on_input(count: int) -> None:
            nonlocal done
            done = min(done + count * self.team.size, total)
            self.listener.progress(f"answering | {name}", done, total)

        self._set(weights)
        return [_answer(self.loaded, task, part, on_input, self.team) for task in tasks]

    def _set(self, weights: Sequence[float]) -> None:
        """Edit the model; vectors of weight 0 take part, to undo what they changed before."""
        operands = [
            replace(reference, coefficient=reference.coefficient * weight)
            for reference, weight in zip(self.related.references, weights, strict=True)
        ]
        InMemoryEdit(self.loaded.model, str(self.loaded.resolved.path), operands=operands).set(1.0)


def open_probe(related: Related, runtime: Runtime, listener: Listener, team: Team = ALONE) -> Probe:
    """Open the base of the vectors.

    :param team: The processes that make this call, and use the result together.
    :raises UsageError: The dtype or device is unknown, or the model is an adapter.
    :raises CheckpointError: It cannot be loaded.
    :raises MismatchError: It is not the model that a vector records.
    """
    team.by_first(lambda: related.check_base(listener))
    loaded = open_together(related.model, runtime, listener, team)
    if loaded.adapter is not None:
        raise UsageError(f"{related.model} is an adapter", "Name the base of the vectors with --model.")
    return Probe(loaded, related, listener, team)


def alone(index: int, count: int) -> list[float]:
    """Return weights that select one vector."""
    return [float(number == index) for number in range(count)]


def _answer(
    loaded: Loaded,
    samples: Sequence[Sample],
    part: Callable[[Answer], _Part],
    on_input: Callable[[int], None],
    team: Team = ALONE,
) -> list[_Part]:
    """Run a model on inputs, teacher-forced, with outputs in float32, and return a part of each answer.

    :param on_input: Receives the number of inputs of each batch that this process has finished.
    :param team: The processes that share the batches.
    :raises CheckpointError: A loss is not finite.
    """
    rows = [sample.input_ids for sample in samples]

    def run(batch: list[int]) -> list[_Part]:
        chosen = [samples[index] for index in batch]
        answers = _answer_batch(loaded, chosen)
        for sample, answer in zip(chosen, answers, strict=True):
            if not np.isfinite(answer.losses).all():
                raise CheckpointError(
                    f"a loss of {sample.id} is not finite", "The weights are broken or overflow: use --dtype float32."
                )
        on_input(len(batch))
        return list(map(part, answers))

    size = min(team.gather(batch_start(loaded.model, max(map(len, rows)), cached=False)))
    with torch.inference_mode():
        grouping = grouping_of_scoring(loaded.model, rows)
        return in_batches(list(map(len, rows)), run, size, shrink=True, grouping=grouping, team=team)


def _answer_batch(loaded: Loaded, samples: Sequence[Sample]) -> list[Answer]:
    ids, mask = pad([sample.input_ids for sample in samples], loaded.model.device, left=False)
    outputs = loaded.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    answers = []
    for row, sample in enumerate(samples):
        first, last = max(sample.prompt_length, 1), len(sample.input_ids)
        logits = outputs.logits[row, first - 1 : last - 1].float()
        scores = torch.log_softmax(logits, -1)
        losses = -scores.gather(1, ids[row, first:last, None])[:, 0]
        entropy = -(scores.exp() * scores).sum(-1).mean()
        positions = torch.linspace(0, last - first - 1, min(_POSITIONS, last - first)).round().long().to(logits.device)
        states = outputs.hidden_states[-1][row, first - 1 : last - 1].float()
        answers.append(
            Answer(
                losses.cpu().double().numpy(),
                float(entropy),
                states[positions].cpu().numpy(),
                logits[positions].cpu().numpy(),
                ids[row, first:last][positions].cpu().numpy(),
            )
        )
    return answers


def _scored(sample: Sample) -> int:
    return len(sample.input_ids) - max(sample.prompt_length, 1)
