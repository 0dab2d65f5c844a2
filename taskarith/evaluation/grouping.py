"""Which rows a model can take in one batch, so that none changes what another gets: asked of the model itself.

Few models say so. A recurrent state reads padding like any token, some positions and some decoding steps are counted
without the mask, and what is masked in one model is not in the next. So a model is given two short rows together and
each alone, once; what differs by more than rounding must not be put together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import GenerationConfig, PreTrainedModel

from taskarith.edit.loaded import main_dtype
from taskarith.evaluation.batches import Grouping, pad

__all__ = ["grouping_of_generation", "grouping_of_scoring", "runs_with_cache", "takes_padding"]

_TOKENS = 32
_STEPS = 4  # the first reads the prompt, the others what was kept of it
_LEAST_LOGIT = -1e30  # of what a model excludes

_Row = Sequence[int]
_Observe = Callable[[PreTrainedModel, Sequence[_Row]], list[torch.Tensor]]

_ANSWERS: WeakKeyDictionary[PreTrainedModel, dict[tuple[_Observe, Grouping, int], bool]] = WeakKeyDictionary()
"""What is known of a model, by the length of the row that it was asked with; other weights do not change it."""

_WITH_CACHE: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def grouping_of_generation(model: PreTrainedModel, rows: Sequence[_Row]) -> Grouping:
    """Return which rows may be continued together, padded on the left where their lengths differ.

    Models with a recurrent state are never given padding: what does no harm over a few tokens may over many.

    :param model: In evaluation mode.
    :param rows: Tokens of the prompts.
    """
    is_stateful = any(getattr(module, "_is_stateful", False) for module in model.modules())
    return _grouping(model, rows, _continued, may_pad=not is_stateful)


def grouping_of_scoring(model: PreTrainedModel, rows: Sequence[_Row]) -> Grouping:
    """Return which rows may be read together, padded on the right where their lengths differ.

    :param model: In evaluation mode.
    :param rows: Tokens of the samples.
    """
    return _grouping(model, rows, _read, may_pad=True)


def takes_padding(model: PreTrainedModel) -> bool:
    """Return whether prompts of different lengths may be continued together.

    :param model: In evaluation mode.
    """
    return grouping_of_generation(model, [range(2, 2 + _TOKENS), range(2, 4)]) == Grouping.PADDED


def runs_with_cache(model: PreTrainedModel) -> bool:
    """Return whether a model continues texts with what it kept of their beginnings; a few have code for it that fails.

    :param model: In evaluation mode.
    """
    if model not in _WITH_CACHE:
        ids = torch.tensor([[2, 3]], device=model.device)
        config = GenerationConfig(max_new_tokens=2, num_beams=1, use_cache=True, pad_token_id=0)
        generate: Any = model.generate  # a Module's attribute may be anything, says its type
        try:
            with torch.inference_mode():
                generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        except Exception:  # the code of a model's class may raise anything
            _WITH_CACHE[model] = False
        else:
            _WITH_CACHE[model] = True
    return _WITH_CACHE[model]


def _grouping(model: PreTrainedModel, rows: Sequence[_Row], observe: _Observe, *, may_pad: bool) -> Grouping:
    longest = max(rows, key=len)
    first = tuple(longest[: max(2, min(_TOKENS, len(longest) - _STEPS))])  # within the model's positions
    second = first[::-1] if first[::-1] != first else (*first[:-1], int(first[-1] == 0))
    differ = len(longest) > min(map(len, rows))
    if may_pad and differ and _agree(model, observe, Grouping.PADDED, [first, second[: len(first) // 2]]):
        return Grouping.PADDED
    return Grouping.EQUAL if _agree(model, observe, Grouping.EQUAL, [first, second]) else Grouping.ALONE


def _agree(model: PreTrainedModel, observe: _Observe, how: Grouping, rows: Sequence[_Row]) -> bool:
    """Return whether rows get together what each gets alone, but for rounding."""
    known, key = _ANSWERS.setdefault(model, {}), (observe, how, len(rows[0]))
    if key not in known:
        with torch.inference_mode():
            alone = [observe(model, [row])[0] for row in rows]
            try:
                together = observe(model, rows)
            except (RuntimeError, ValueError, IndexError, TypeError):  # it takes such rows alone, as was just seen
                known[key] = False
            else:
                tolerance = torch.finfo(main_dtype(model.state_dict())).eps ** 0.5
                known[key] = all(_are_close(*pair, tolerance) for pair in zip(together, alone, strict=True))
    return known[key]


def _continued(model: PreTrainedModel, rows: Sequence[_Row]) -> list[torch.Tensor]:
    """Return for each row the logits of the first tokens of its continuation."""
    ids, mask = pad(rows, model.device, left=True)
    config = GenerationConfig(
        max_new_tokens=_STEPS,
        num_beams=1,
        use_cache=runs_with_cache(model),
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    generate: Any = model.generate  # a Module's attribute may be anything, says its type
    found = generate(input_ids=ids, attention_mask=mask, generation_config=config)
    return list(torch.stack(found.logits, 1))


def _read(model: PreTrainedModel, rows: Sequence[_Row]) -> list[torch.Tensor]:
    """Return for each row the logits after each of its tokens but the last, which predicts none."""
    ids, mask = pad(rows, model.device, left=False)
    context, seen = ids[:, :-1], mask[:, :-1]
    logits = model(input_ids=context, attention_mask=None if seen.all() else seen, use_cache=False).logits
    return [values[: len(row) - 1] for values, row in zip(logits, rows, strict=True)]


def _are_close(first: torch.Tensor, second: torch.Tensor, tolerance: float) -> bool:
    """Compare logits of shape (steps, vocabulary), up to the first step after which another token may follow.

    :param tolerance: Relative to the spread of the logits. What rounding leaves of two equal calculations is far below
        the root of the dtype's precision; what a token that should not be seen changes is far above.
    """
    steps = min(len(first), len(second))
    same = first[:steps].argmax(-1) == second[:steps].argmax(-1)
    until = int(same.long().cumprod(0).sum()) + 1
    one, two = (values[:until].double().clamp(min=_LEAST_LOGIT) for values in (first[:steps], second[:steps]))
    counts = (one > _LEAST_LOGIT) & (two > _LEAST_LOGIT)
    gaps = torch.where(counts, one - two, 0.0).abs().amax(-1)
    spread = two.amax(-1) - torch.where(counts, two, torch.inf).amin(-1)
    return bool((gaps <= tolerance * spread).all())
