"""Rows of a batch laid end to end on fewer lines, and a measurement of whether a model keeps them apart."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from taskarith.errors import UsageError
from taskarith.models.language import can_run, plain_tokens
from taskarith.training.quantised import is_quantised

__all__ = ["check_packing", "lay_out"]

_LINE = 2048
"""Attention over a line of so many tokens is taken to cost as much as everything else: less is true of small models."""

_ROUNDING, _COARSE = 1e-4, 5e-2
"""How far the logits of a row may be from those of the row alone, as a share of their norm: in float32, and in a model
of 16 bits, or of 8, whose scales are those of all tokens that it is given."""

_HINT = "Leave out --packing; --group-by-length saves padding with every model."


def lay_out(lengths: Sequence[int]) -> list[list[int]]:
    """Share the rows of a batch among lines so that these take the least time.

    For each number of lines, rows go to the shortest line, the longest row first. Lines are padded to the longest,
    and attention is calculated over whole lines: the cost is lines * longest * (1 + longest / 2048).

    :param lengths: Tokens of each row.
    :return: The numbers of the rows on each line; rows of one length have a line each.
    """
    layouts = [_balance(lengths, count) for count in range(len(lengths), 0, -1)]
    return min(layouts, key=lambda lines: _cost([sum(lengths[row] for row in line) for line in lines]))


def _balance(lengths: Sequence[int], count: int) -> list[list[int]]:
    lines: list[list[int]] = [[] for _ in range(count)]
    shortest = [(0, line) for line in range(count)]
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        length, line = shortest[0]
        lines[line].append(row)
        heapq.heapreplace(shortest, (length + lengths[row], line))
    return lines


def _cost(tokens: Sequence[int]) -> int:
    longest = max(tokens)
    return len(tokens) * longest * (_LINE + longest)


def check_packing(model: PreTrainedModel, longest: int) -> None:
    """Measure that rows on one line are to a model what each of them is alone.

    :param model: In evaluation mode, as loaded.
    :param longest: Tokens that a line may have at most; what is measured has a few.
    :raises UsageError: They are not, or this cannot be measured.
    """
    name = type(model).__name__
    if not can_run(model):
        raise UsageError(
            f"--packing cannot be checked: the weights of {name} are spread over processes before they are trained",
            "Leave out --packing, or start the processes without FSDP or DeepSpeed.",
        )
    try:
        reason = _mistake(model) or _mistake_at_length(model, longest)
    except Exception as error:  # its code does not support positions, or lines that are not padded
        reason = (
            f"it does not run on rows end to end: {str(error).strip().partition(chr(10))[0] or type(error).__name__}"
        )
    finally:
        model.eval()
    if reason:
        raise UsageError(f"--packing does not work with {name}: {reason}", _HINT)


def _mistake(model: PreTrainedModel) -> str | None:
    """Return what is wrong with packed rows, or None."""
    start, first, second = plain_tokens(model.config)
    lines = [[start + first + second, second + start], [first + start, first, second + second]]
    device = next(model.parameters()).device
    width = max(sum(map(len, rows)) for rows in lines)
    ids = torch.tensor([[token for row in rows for token in row] for rows in _padded(lines, width)], device=device)
    places = [[place for row in rows for place in range(len(row))] for rows in _padded(lines, width)]
    packed: dict[str, Any] = {"input_ids": ids, "position_ids": torch.tensor(places, device=device), "use_cache": False}
    with torch.no_grad():
        output = model(**packed)
        if getattr(output, "aux_loss", None) is not None:
            return "its loss also balances experts over the tokens of a batch, padding included"
        is_exact = model.dtype == torch.float32 and not any(map(is_quantised, model.modules()))
        if (share := _difference(model, lines, output.logits)) > (_ROUNDING if is_exact else _COARSE):
            return f"it does not keep rows apart: beside others, its predictions for a row differ by {share:.1%}"
    with torch.random.fork_rng(devices=[]):  # dropout uses random numbers
        leaks = _leaks(model.train(), packed, len(lines[0][0]))
    return "it does not keep rows apart: its predictions for one depend on another" if leaks else None


def _mistake_at_length(model: PreTrainedModel, longest: int) -> str | None:
    """Return what is wrong with long lines only: Llama 4 scales attention by the place on the line, not in the row."""
    config = model.config.get_text_config()
    if not getattr(config, "attn_temperature_tuning", False) or longest < config.floor_scale:
        return None
    place = f"from token {config.floor_scale:g} on it scales attention by the place on a line"
    return f"{place}, which may have {longest} tokens"


def _padded(lines: Sequence[Sequence[list[int]]], width: int) -> list[list[list[int]]]:
    """Fill lines up with rows of one token."""
    return [[*rows, *[[rows[0][0]]] * (width - sum(map(len, rows)))] for rows in lines]


def _difference(model: PreTrainedModel, lines: Sequence[Sequence[list[int]]], logits: torch.Tensor) -> float:
    """Return the largest share by which the logits of a row differ from those of the row alone."""
    shares = []
    for line, rows in enumerate(lines):
        end = 0
        for row in rows:
            ids = torch.tensor([row], device=logits.device)
            alone = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0].float()
            found = logits[line, end : end + len(row)].float()
            shares.append(float((found - alone).norm() / alone.norm()))
            end += len(row)
    return max(shares)


def _leaks(model: PreTrainedModel, packed: dict[str, Any], border: int) -> bool:
    """Tell whether predictions on either side of a border depend on tokens of the other side."""
    embedded: list[torch.Tensor] = []
    handle = model.get_input_embeddings().register_forward_hook(lambda *call: embedded.append(call[-1]))
    try:
        with torch.enable_grad():
            logits = model(**packed).logits[0].float()
            [after] = torch.autograd.grad(logits[border:].square().sum(), embedded[:1], retain_graph=True)
            [before] = torch.autograd.grad(logits[:border].square().sum(), embedded[:1])
    finally:
        handle.remove()
    return bool((after[0, :border] != 0).any() or (before[0, border:] != 0).any())
