"""What each layer of a model still tells of a text: its states, read by the model's own final norm and output head.

This is the logit lens (nostalgebraist, "interpreting GPT: the logit lens", 2020, LessWrong).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from taskarith.checkpoints.units import Batches
from taskarith.data.tokens import Sample
from taskarith.errors import MismatchError
from taskarith.evaluation.batches import Batching, in_batches
from taskarith.evaluation.loss import logit_rows
from taskarith.models.layers import layer_list

__all__ = ["Lens", "find_lens", "read_layers"]

_PROBE_TOKENS = 8
_TOKENS = 256  # read at once: on a CPU an output head takes half as long again for 64, and no less for more
_CLOSE = 1e-3  # relative and absolute: the same operations on the same states, in half precision, too
_HINT = "Leave out --lens."

_States = torch.Tensor


@dataclass(frozen=True)
class Lens:
    """How the states of a model's layers become logits.

    :param model: In evaluation mode.
    :param decoder: The part of it that holds the layers, from the embeddings to the final norm.
    :param tail: What the decoder applies after its last layer: the final norm, in OPT also a projection.
    """

    model: PreTrainedModel
    decoder: torch.nn.Module
    tail: tuple[torch.nn.Module, ...]

    def losses(self, samples: Sequence[Sample]) -> list[list[float]]:
        """Return the sums of samples' token losses in nats at each layer: the embeddings' first, then each layer's.

        Only tokens after a prompt count, never the first. The last of a sample is the model's own loss. The states of
        all samples are in memory, but logits of one layer at a time, and of a bounded number of tokens.

        :raises MismatchError: One is not finite.
        """
        starts = [max(sample.prompt_length, 1) for sample in samples]
        rows = [torch.tensor([sample.input_ids], device=self.model.device) for sample in samples]
        outputs = [self.states_of(ids[:, :-1]) for ids in rows]
        targets = torch.cat([ids[:, start:] for ids, start in zip(rows, starts, strict=True)], dim=1)
        columns = []
        for layer in range(len(outputs[0].hidden_states)):
            states = [self._read(output, layer)[:, start - 1 :] for output, start in zip(outputs, starts, strict=True)]
            losses = self._losses(outputs[0], torch.cat(states, dim=1), targets)
            parts = losses.split([ids.shape[1] - start for ids, start in zip(rows, starts, strict=True)])
            columns.append([float(part.sum()) for part in parts])
        found = [list(sums) for sums in zip(*columns, strict=True)]
        for sample, sums in zip(samples, found, strict=True):
            if not all(map(math.isfinite, sums)):
                raise MismatchError(f"the losses of {sample.id} at the layers are not all finite", _HINT)
        return found

    def states_of(self, ids: torch.Tensor) -> Any:
        """Return the decoder's output for token ids, shape (1, tokens), with all hidden states."""
        body, outputs = self.model.base_model, []
        handle = self.decoder.register_forward_hook(lambda *called: outputs.append(called[-1]))
        try:
            (self.decoder if body is self.model else body)(input_ids=ids, use_cache=False, output_hidden_states=True)
        finally:
            handle.remove()
        return outputs[0]

    def logits(self, output: Any, normed: _States) -> torch.Tensor:
        """Return the logits of normed states, shape (1, tokens, width), as the model calculates them.

        Some models scale or cap what their head gives. So it is the model itself that goes on from the states.

        :param output: Of the decoder.
        """
        given = copy.copy(output)
        given.last_hidden_state = normed
        with _instead(self.decoder, given):
            ids = torch.zeros(normed.shape[:2], dtype=torch.long, device=self.model.device)
            return self.model(input_ids=ids, use_cache=False).logits

    def normed(self, states: _States) -> _States:
        """Return states of a layer other than the last as the output head takes them."""
        for module in self.tail:
            states = module(states)
        return states

    def _read(self, output: Any, layer: int) -> _States:
        """Return the states of a layer as the output head takes them; of the last one the model has normed them."""
        is_last = layer == len(output.hidden_states) - 1
        return output.last_hidden_state if is_last else self.normed(output.hidden_states[layer])

    def _losses(self, output: Any, normed: _States, targets: torch.Tensor) -> torch.Tensor:
        """Return token losses, float64 of shape (tokens,), on the CPU."""
        rows = logit_rows(normed.device, self.model.get_output_embeddings().weight.shape[0])
        found = []
        for chunk, wanted in zip(normed.split(rows, dim=1), targets.split(rows, dim=1), strict=True):
            logits = self.logits(output, chunk)[0].float()
            losses = torch.nn.functional.cross_entropy(logits, wanted[0].to(logits.device), reduction="none")
            found.append(losses.cpu().double())
        return torch.cat(found)


def find_lens(model: PreTrainedModel, ids: Sequence[int]) -> Lens:
    """Find how the states of a model's layers are read, and check it on a few tokens.

    :param model: In evaluation mode.
    :param ids: Tokens of a text; the first few are used.
    :raises MismatchError: The model has no output head, or no final norm can be found, or what is found does not give
        the model's own logits.
    """
    name, layers = type(model).__name__, layer_list(model)
    holder = "" if layers is None else layers.rpartition(".")[0]
    if model.get_output_embeddings() is None:
        raise MismatchError(f"the layers of {name} cannot be read: it has no output head", _HINT)
    if layers is None or not holder:
        raise MismatchError(f"the layers of {name} cannot be read: its decoder is not one list of layers", _HINT)
    trace = _Trace(Lens(model, model.get_submodule(holder), ()), model.get_submodule(layers))
    few = torch.tensor([list(ids[:_PROBE_TOKENS])], device=model.device)
    try:
        with torch.inference_mode():
            found = trace.lens_or_fault(few)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:  # of code that is another than expected
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MismatchError(f"the layers of {name} cannot be read: {reason}", _HINT) from error
    if isinstance(found, str):
        raise MismatchError(f"the layers of {name} cannot be read: {found}", _HINT)
    return found


def read_layers(lens: Lens, samples: Sequence[Sample], batching: Batching) -> list[list[float]]:
    """Return the losses of samples at each layer; see ``Lens.losses``.

    :param batching: Its team shares the samples; batches have few tokens, whatever its size.
    :raises MismatchError: A loss is not finite.
    """
    lengths = [len(sample.input_ids) for sample in samples]
    kept = None if batching.units is None else Batches(batching.units, list, _unpack)
    with torch.inference_mode():
        return in_batches(
            lengths,
            lambda batch: lens.losses([samples[index] for index in batch]),
            max(1, _TOKENS // max(lengths, default=1)),
            shrink=True,
            team=batching.team,
            kept=kept,
        )


def _unpack(item: int, values: Any) -> list[float]:
    del item
    if not isinstance(values, list) or not all(isinstance(value, float) and math.isfinite(value) for value in values):
        raise TypeError("losses are numbers")
    return values


class _Trace:
    """What a model does with a few tokens: what enters its layers, what leaves the last, and what follows."""

    def __init__(self, lens: Lens, layers: torch.nn.Module) -> None:
        self._lens, self._layers = lens, [*layers.children()]
        self._entered: list[_States] = []
        self._left: list[_States] = []
        self._tail: list[torch.nn.Module] = []

    def lens_or_fault(self, ids: torch.Tensor) -> Lens | str:
        """Return how layers are read, or why they cannot be."""
        output = self._run(ids)
        if not self._tail:
            return "it has no final norm"
        lens = replace(self._lens, tail=tuple(self._tail))
        *states, normed = output.hidden_states
        if len(states) != len(self._layers) or not all(map(_is_close, states, self._entered)):
            return "its hidden states are not what enters its layers"
        last = lens.normed(self._left[-1])
        if not _is_close(normed, last) or not _is_close(output.last_hidden_state, last):
            return "its last hidden states are not those after its final norm"
        own = lens.model(input_ids=ids, use_cache=False).logits
        return lens if _is_close(lens.logits(output, last), own) else "its head does not give its own logits"

    def _run(self, ids: torch.Tensor) -> Any:
        inside = {id(layer) for layer in self._layers}
        beside = [part for part in self._lens.decoder.children() if inside.isdisjoint(map(id, part.modules()))]
        handles = [layer.register_forward_pre_hook(self._enter, with_kwargs=True) for layer in self._layers]
        handles += [self._layers[-1].register_forward_hook(self._leave)]
        handles += [part.register_forward_hook(self._follow) for part in beside]
        try:
            return self._lens.states_of(ids)
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, _module: torch.nn.Module, given: Any, named: Any) -> None:
        self._entered.append(given[0] if given else named["hidden_states"])

    def _leave(self, _module: torch.nn.Module, _given: Any, returned: Any) -> None:
        self._left.append(returned if isinstance(returned, torch.Tensor) else returned[0])
        self._tail.clear()  # of what came before

    def _follow(self, module: torch.nn.Module, *_: Any) -> None:
        self._tail.append(module)


def _is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether tensors have the same shape and nearly the same values, on whatever devices."""
    pair = [tensor.detach().float().cpu() for tensor in (one, other)]
    return pair[0].shape == pair[1].shape and torch.allclose(*pair, rtol=_CLOSE, atol=_CLOSE)


@contextmanager
def _instead(decoder: torch.nn.Module, output: Any) -> Generator[None]:
    """Let a module return an output, whatever it is called with."""
    before = decoder.__dict__.get("forward")  # accelerate puts one of its own there
    decoder.forward = lambda *_, **__: output
    try:
        yield
    finally:
        if before is None:
            del decoder.forward
        else:
            decoder.forward = before
