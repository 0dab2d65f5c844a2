"""Decoding of many prompts at a time, with no step that can be saved.

A batch has slots ("continuous batching"): a continuation that has ended leaves its slot to the next prompt. What two
prompts begin with is read once. And a step reads several tokens of a row where they can be guessed, from the true
continuation or from what followed the same two tokens before: it keeps those that the model itself chooses
("speculative decoding", Leviathan et al. 2023, arXiv:2211.17192, with guesses instead of a smaller model). So the
tokens are those of one step for each, except for ties within rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from taskarith.evaluation.graphs import Graphs, can_record
from taskarith.evaluation.linear import fast_products
from taskarith.evaluation.slots import Place, Slots

__all__ = ["MOST_TOKENS", "Job", "decode"]

_GUESSES = (0, 1, 3, 7, 15)  # tokens guessed in a step
_FREE_TOKENS = {"cpu": 32, "cuda": 256}  # tokens that take as long to read as the weights
_READ_TOKENS = {"cpu": 1024, "cuda": 16_384}  # tokens of prompts read at once
_SHARED = 16  # tokens that two prompts must have in common before it is worth to look
MOST_TOKENS = 1 + max(_GUESSES)
"""Tokens of a continuation that a step can make."""

_LEARNING = 0.25  # weight of the latest guess in the share of right ones
_MOST_RIGHT = 0.99
_COLUMNS = 256  # read at least, and by which more are, where shapes should repeat
_ROOM = 8  # new prompts are read when one slot in so many is free


def _likeliest(logits: torch.Tensor, _prompts: Sequence[int], _made: Sequence[int]) -> torch.Tensor:
    """Choose greedily."""
    return logits.argmax(-1)


def _ignore(_index: int, _logits: torch.Tensor) -> None:
    """Ignore logits."""


@dataclass(frozen=True)
class Job:
    """What to decode.

    :param prompts: Tokens of each, at least one.
    :param truths: The tokens that are expected to follow; may be empty. They change nothing but the time.
    :param limit: Maximum tokens of a continuation.
    :param is_over: Whether a continuation, given by the number of its prompt and its tokens, has ended.
    :param on_tokens: Receives the number of tokens made, and of those that an early end saves.
    :param choose: Returns the token for each of the logits of shape (rows, width, vocabulary), which follow each other;
        it receives the number of each row's prompt and how many tokens were made of it before. Greedy if not given.
    :param on_logits: Receives the number of a prompt and the logits from which each token was chosen; the next step may
        overwrite them.
    """

    prompts: Sequence[Sequence[int]]
    truths: Sequence[Sequence[int]]
    limit: int
    is_over: Callable[[int, list[int]], bool]
    on_tokens: Callable[[int], None]
    choose: Callable[[torch.Tensor, Sequence[int], Sequence[int]], torch.Tensor] = _likeliest
    on_logits: Callable[[int, torch.Tensor], None] = _ignore


def decode(model: PreTrainedModel, job: Job, slots: int) -> list[list[int]]:
    """Return the tokens of each continuation, the last step's after its end included.

    :param model: In evaluation mode; one that ``decodes_alike``.
    :param slots: Continuations made at a time.
    """
    rows = [_Row(n, prompt, truth) for n, (prompt, truth) in enumerate(zip(job.prompts, job.truths, strict=True))]
    batch, waiting = _Batch(model, job, min(slots, len(rows))), rows[::-1]
    with fast_products(model, job.limit):
        while waiting or batch.rows:
            room = batch.slots - len(batch.rows)
            if waiting and (room * _ROOM >= batch.slots or not batch.rows):
                batch.admit([waiting.pop() for _ in range(min(room, len(waiting)))])
            batch.step(others_wait=bool(waiting))
    return [row.made for row in rows]


class _Row:
    """A prompt and its continuation so far.

    :param text: Prompt and truth, then what was made: where guesses come from.
    :param right: Estimated share of right guesses.
    """

    def __init__(self, index: int, prompt: Sequence[int], truth: Sequence[int]) -> None:
        self.index, self.prompt, self.made = index, list(prompt), list[int]()
        self.text, self.right = [*prompt, *truth], 0.5
        self._after: dict[tuple[int, ...], int] = {pair: at for at, pair in enumerate(pairwise(self.text), 2)}
        self._pair: tuple[int, ...] = tuple(self.prompt[-2:])
        self._after[self._pair] = len(self.prompt)

    @property
    def last(self) -> int:
        """The last token."""
        return (self.made or self.prompt)[-1]

    def guess(self, count: int) -> list[int]:
        """Return up to so many tokens that followed the last two before."""
        at = self._after.get(self._pair, len(self.text))
        return self.text[at : at + count]

    def add(self, read: Sequence[int], chosen: Sequence[int], guess: Sequence[int], limit: int) -> list[int]:
        """Append the choices of a step up to the first that was not read next, and return them."""
        right = _common(read[1:], chosen)
        made = list(chosen[: min(1 + right, limit - len(self.made))])
        for token in made:
            self._after[self._pair] = len(self.text)
            self._pair = (*self._pair[-1:], token)
            self.text.append(token)
        self.made += made
        for guessed, token in zip(guess, made, strict=False):
            self.right += _LEARNING * (min(guessed == token, _MOST_RIGHT) - self.right)
        return made


class _Batch:
    """The rows being continued: row ``i`` has slot ``i``, which holds all its tokens but the last."""

    def __init__(self, model: PreTrainedModel, job: Job, slots: int) -> None:
        self.rows: list[_Row] = []
        self.slots = slots
        self._model, self._job = model, job
        self._kind = model.device.type if model.device.type in _FREE_TOKENS else "cuda"
        self._held: list[list[int]] = [[] for _ in range(slots)]
        self._starting: dict[tuple[int, ...], int] = {}
        self._longest = max(map(len, job.prompts)) + job.limit
        self._place = Place(slots, self._longest + max(_GUESSES))
        self._layers = [Slots(self._place) for _ in DynamicCache(config=model.config).layers]
        self._cache = Cache(layers=list(self._layers))
        self._graphs = Graphs(model.device) if can_record(model) else None
        self._keeps_few = "logits_to_keep" in inspect.signature(model.forward).parameters

    def admit(self, rows: list[_Row]) -> None:
        """Read prompts into free slots; a prompt that begins like another is read after it."""
        while rows:
            first, later = len(self.rows), list[_Row]()
            beginnings = set[tuple[int, ...]]()
            for row in rows:
                beginning = tuple(row.prompt[:_SHARED])
                if beginning in beginnings and beginning not in self._starting:
                    later.append(row)
                else:
                    beginnings.add(beginning)
                    self._share(row.prompt[:-1], len(self.rows), self._starting.get(beginning))
                    self.rows.append(row)
            self._read(first)
            self._starting.update((tuple(r.prompt[:_SHARED]), slot) for slot, r in enumerate(self.rows[first:], first))
            rows = later

    def step(self, *, others_wait: bool) -> None:
        """Make at least one token of each row, and remove rows that end."""
        guesses = [row.guess(max(_GUESSES)) for row in self.rows]
        longest = max(self._job.limit - len(row.made) for row in self.rows)
        width = min(longest, 1 + self._guesses(guesses, others_wait=others_wait))
        inputs = [[row.last, *guess[: width - 1]] for row, guess in zip(self.rows, guesses, strict=True)]
        logits = self._forward_all(inputs, width)
        numbers, made_before = [row.index for row in self.rows], [len(row.made) for row in self.rows]
        choices = self._job.choose(logits, numbers, made_before).tolist()
        for slot, row in reversed(list(enumerate(self.rows))):
            made = row.add(inputs[slot], choices[slot], guesses[slot], self._job.limit)
            self._held[slot] += inputs[slot][: len(made)]
            self._job.on_logits(row.index, logits[slot, : len(made)])
            self._job.on_tokens(len(made))
            if len(row.made) == self._job.limit or self._job.is_over(row.index, row.made):
                self._job.on_tokens(self._job.limit - len(row.made))
                self._remove(slot)

    def _remove(self, slot: int) -> None:
        """Give a slot to the last row."""
        last, row = len(self.rows) - 1, self.rows.pop()
        if slot != last:
            self._copy(last, slot, len(self._held[last]))
            self.rows[slot] = row

    def _share(self, tokens: list[int], slot: int, other: int | None) -> None:
        """Copy to a slot what another holds of these tokens."""
        self._copy(slot if other is None else other, slot, 0 if other is None else _common(tokens, self._held[other]))

    def _copy(self, source: int, target: int, count: int) -> None:
        for layer in self._layers if source != target and count else []:
            layer.copy(source, target, count)
        self._held[target] = self._held[source][:count]

    def _read(self, first: int) -> None:
        """Read what slots do not hold of their prompts, all but the last tokens."""
        rests = {slot: row.prompt[len(self._held[slot]) : -1] for slot, row in enumerate(self.rows[first:], first)}
        waiting = sorted((slot for slot, rest in rests.items() if rest), key=lambda slot: len(rests[slot]))
        while waiting:
            count = max(1, _READ_TOKENS[self._kind] // len(rests[waiting[-1]]))
            slots, waiting = waiting[-count:], waiting[:-count]
            self._forward([rests[slot] for slot in slots], slots, keep=1)
            for slot in slots:
                self._held[slot] += rests[slot]

    def _guesses(self, guesses: Sequence[Sequence[int]], *, others_wait: bool) -> int:
        """Return how many tokens to guess, so that all ends soonest: the last row if no others wait for slots."""

        def time(count: int) -> float:
            steps = [
                (self._job.limit - len(row.made)) * (1 - row.right) / (1 - row.right ** (min(count, len(guess)) + 1))
                for row, guess in zip(self.rows, guesses, strict=True)
            ]
            needed = sum(steps) / len(steps) if others_wait else max(steps)
            return needed * (_FREE_TOKENS[self._kind] + len(steps) * (1 + count))

        return min(_GUESSES, key=time)

    def _forward(self, rows: Sequence[Sequence[int]], slots: Sequence[int], *, keep: int) -> torch.Tensor:
        """Read tokens after those that slots hold; return the logits after the last ``keep``, padding included."""
        ids, columns = self._padded(rows, slots, max(keep, *map(len, rows)))
        device, until = self._model.device, int(columns.max()) + 1
        return self._run(ids.to(device), columns.to(device), until, slots=slots, keep=keep)

    def _forward_all(self, rows: Sequence[Sequence[int]], width: int) -> torch.Tensor:
        """Read tokens of all rows as ``_forward`` does, on a GPU in shapes that repeat; return all logits."""
        if self._graphs is None or width - 1 not in _GUESSES:
            return self._forward(rows, range(len(rows)), keep=width)
        ids, columns = self._padded([*rows, *[[0]] * (self.slots - len(rows))], range(self.slots), width)
        until = min(-(-(int(columns.max()) + 1) // _COLUMNS) * _COLUMNS, self._place.shape[1])
        run = partial(self._run, slots=range(self.slots), keep=width)
        return self._graphs.run(run, ids, columns, until)[: len(rows)]

    def _padded(
        self, rows: Sequence[Sequence[int]], slots: Sequence[int], width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and the columns after those that slots hold, of shape (rows, width)."""
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        columns = torch.tensor([[len(self._held[slot])] for slot in slots]) + torch.arange(width)
        return ids, columns.clamp_(max=self._place.shape[1] - 1)  # of padding alone: no row has so many tokens

    def _run(
        self, ids: torch.Tensor, columns: torch.Tensor, until: int, *, slots: Sequence[int], keep: int
    ) -> torch.Tensor:
        """Write tokens to columns of slots, read the first ``until`` columns; return the last ``keep`` logits."""
        self._place.put(slots, columns, until)
        are_later = columns[:, None, :, None] < torch.arange(until, device=columns.device)
        mask = torch.zeros(are_later.shape, dtype=self._model.dtype, device=columns.device)
        return self._model(
            input_ids=ids,
            attention_mask=mask.masked_fill_(are_later, torch.finfo(mask.dtype).min),
            position_ids=columns.clamp(max=self._longest - 1),
            past_key_values=self._cache,
            use_cache=True,
            **({"logits_to_keep": keep} if self._keeps_few else {}),
        ).logits


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of tokens with which both begin."""
    return next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
