"""Samples side by side: a prompt, its true continuation, and what each model said, with what is repeated marked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rapidfuzz.distance import LCSseq

__all__ = ["Piece", "Sample", "samples_of"]

_WORD = re.compile(r"[a-z0-9]+", re.IGNORECASE)
_MOST_TEXTS = 4
"""Prompts of a text that are shown."""


@dataclass(frozen=True)
class Piece:
    """A part of a continuation.

    :param text: As it was generated.
    :param is_repeated: Whether it is a word of the longest common subsequence with the true text, as of ROUGE-L.
    """

    text: str
    is_repeated: bool


@dataclass(frozen=True)
class Sample:
    """A prompt, and how it goes on.

    :param text: Name of the data set.
    :param prompt: What the models were given.
    :param truth: How it goes on in truth.
    :param answers: Name of each model, and what it said.
    """

    text: str
    prompt: str
    truth: str
    answers: tuple[tuple[str, tuple[Piece, ...]], ...]


def samples_of(records: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> tuple[Sample, ...]:
    """Return the first prompts of each text with the continuations of all models.

    :param records: Of an evaluation; kinds other than continuations are skipped.
    :param names: Name of each model to show.
    """
    found: dict[str, dict[str, dict[str, Mapping[str, Any]]]] = {}
    for record in records:
        if record["kind"] == "continuation" and record["model"] in names:
            by_sample = found.setdefault(record["text"], {})
            by_sample.setdefault(record["sample"], {})[record["model"]] = record
    return tuple(
        _sample(text, by_model, names)
        for text, by_sample in found.items()
        for by_model in list(by_sample.values())[:_MOST_TEXTS]
    )


def _sample(text: str, by_model: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> Sample:
    first = next(iter(by_model.values()))
    answers = [
        (names[model], marked(first["reference"], by_model[model]["continuation"]))
        for model in names
        if model in by_model
    ]
    return Sample(text, first["prompt"], first["reference"], tuple(answers))


def marked(truth: str, continuation: str) -> tuple[Piece, ...]:
    """Cut a continuation into pieces that are repeated from the true text, and those that are not."""
    words = list(_WORD.finditer(continuation))
    common = _common([word.lower() for word in _WORD.findall(truth)], [word[0].lower() for word in words])
    pieces: list[Piece] = []
    end = 0
    for number, word in enumerate(words):
        pieces += [Piece(continuation[end : word.start()], is_repeated=False), Piece(word[0], number in common)]
        end = word.end()
    return tuple(piece for piece in [*pieces, Piece(continuation[end:], is_repeated=False)] if piece.text)


def _common(truth: list[str], guess: list[str]) -> set[int]:
    """Return the places in ``guess`` of a longest common subsequence."""
    blocks = LCSseq.opcodes(truth, guess)
    return {place for block in blocks if block.tag == "equal" for place in range(block.dest_start, block.dest_end)}
