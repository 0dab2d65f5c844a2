"""Which rows can share a batch without changing each other's results, tested on the model itself.

Few models declare it. A recurrent state reads padding like any token, and some models count positions or decoding
steps without the mask. So a model runs once on b short rows together and on each alone; if results differ by more
than rounding, such rows must not share a batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from taskarith.edit.loaded import main_dtype
from taskarith.evaluation.batches import Grouping, pad
from taskarith.evaluation.decoding import Job, decode

__all__ = [
    "can_decode",
    "decodes_alike",
    "grouping_of_generation",
    "grouping_of_scoring",
    "runs_with_cache",
    "takes_padding",
]

_TOKENS = 32
_STEPS = 4  # the first reads the prompt, the others its cache
_LEAST_LOGIT = -1e30  # of tokens that a model excludes

_Row = Sequence[int]
_Observe = Callable[[PreTrainedModel, Sequence[_Row]], list[torch.Tensor]]

_AGREEMENT: WeakKeyDictionary[PreTrainedModel, dict[tuple[_Observe, Grouping, int], bool]] = WeakKeyDictionary()
"""Results per model and row length; they do not depend on the weights."""

_ALIKE: WeakKeyDictionary[PreTrainedModel, dict[int, bool]] = WeakKeyDictionary()
_WITH_CACHE: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def grouping_of_generation(model: PreTrainedModel, rows: Sequence[_Row]) -> Grouping:
    """Return which rows may be continued together, padded on the left where their lengths differ.

    Models with a recurrent state never get padding, which may be harmless over a few tokens but not over many.

    :param model: In evaluation mode.
    :param rows: Tokens of the prompts.
    """
    is_stateful = any(getattr(module, "_is_stateful", False) for module in model.modules())
    return _grouping(model, rows, _continued, may_pad=not is_stateful)


def grouping_of_scoring(model: PreTrainedModel, rows: Sequence[_Row]) -> Grouping:
    """Return which rows may be scored together, padded on the right where their lengths differ.

    :param model: In evaluation mode.
    :param rows: Tokens of the samples.
    """
    return _grouping(model, rows, _read, may_pad=True)


def decodes_alike(model: PreTrainedModel, rows: Sequence[_Row], limit: int) -> bool:
    """Tell whether ``decode`` continues rows as ``generate`` continues each alone.

    :param model: In evaluation mode.
    :param rows: Tokens of the prompts.
    :param limit: Maximum tokens of a continuation.
    """
    if not can_decode(model, max(map(len, rows)) + limit):
        return False
    first, second = _short_rows(rows)
    known, key = _ALIKE.setdefault(model, {}), len(first)
    if key not in known:
        known[key] = runs_with_cache(model) and _are_decoded(model, first, second)
    return known[key]


def can_decode(model: PreTrainedModel, tokens: int) -> bool:
    """Tell whether ``decode`` may be tried: layers see all tokens, and take the mask that they are given.

    Attention of a window is that over all tokens as long as the window holds them. Other code for attention than
    torch's, and code from outside transformers, may have masks of its own, which a trial on few tokens does not show;
    nor does it show rotations that depend on the longest row.

    :param tokens: Most tokens of a prompt with its continuation.
    """
    configs = (model.config, model.config.get_text_config())
    if any(config._attn_implementation != "sdpa" for config in configs):
        return False
    if not type(model).__module__.startswith("transformers."):
        return False
    if not inspect.signature(model.forward).parameters.keys() >= {"attention_mask", "position_ids", "past_key_values"}:
        return False
    try:
        layers = DynamicCache(config=model.config).layers
    except AttributeError:  # a configuration without layers
        return False
    windows = [getattr(layer, "sliding_window", None) for layer in layers]
    kinds = {type(layer) for layer in layers}
    sees_all = kinds <= {DynamicLayer, DynamicSlidingWindowLayer} and all(w is None or w >= tokens for w in windows)
    return sees_all and _turns_alike(model.config.get_text_config(), tokens)


def _turns_alike(config: PretrainedConfig, tokens: int) -> bool:
    """Tell whether positions are encoded the same however long the rows of a batch are."""
    found = getattr(config, "rope_parameters", None) or {}
    for one in (one for one in (found, *found.values()) if isinstance(one, Mapping)):
        scaled_from = one.get("original_max_position_embeddings") or config.max_position_embeddings
        if one.get("rope_type") in {"dynamic", "longrope"} and tokens > min(
            scaled_from, config.max_position_embeddings
        ):
            return False
    return True


def _are_decoded(model: PreTrainedModel, first: _Row, second: _Row) -> bool:
    """Decode four rows in two slots: guesses are right, wrong and short, one row begins like another."""
    tried = [first, second[: max(1, len(first) // 2)], (*first[:-1], second[-1]), first]
    with torch.inference_mode():
        alone = [_continued(model, [row])[0] for row in tried]
        logits: list[list[torch.Tensor]] = [[] for _ in tried]
        job = Job(
            tried,
            [alone[0].argmax(-1).tolist(), first, alone[2][:2].argmax(-1).tolist(), ()],
            _STEPS,
            lambda _, __: False,
            lambda _: None,
            on_logits=lambda index, values: logits[index].append(values.clone()),
        )
        try:
            decode(model, job, 2)
        except Exception:  # the code of a model's class may raise anything
            return False
    tolerance = torch.finfo(main_dtype(model.state_dict())).eps ** 0.5
    return all(_are_close(torch.cat(a), b, tolerance) for a, b in zip(logits, alone, strict=True))


def takes_padding(model: PreTrainedModel) -> bool:
    """Tell whether prompts of different lengths may be continued together.

    :param model: In evaluation mode.
    """
    return grouping_of_generation(model, [range(2, 2 + _TOKENS), range(2, 4)]) == Grouping.PADDED


def runs_with_cache(model: PreTrainedModel) -> bool:
    """Tell whether a model can generate with a key-value cache; the code of a few models fails.

    :param model: In evaluation mode.
    """
    if model not in _WITH_CACHE:
        ids = torch.tensor([[2, 3]], device=model.device)
        config = GenerationConfig(max_new_tokens=2, num_beams=1, use_cache=True, pad_token_id=0)
        generate: Any = model.generate  # typed as any attribute of a Module
        try:
            with torch.inference_mode():
                generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        except Exception:  # the code of a model's class may raise anything
            _WITH_CACHE[model] = False
        else:
            _WITH_CACHE[model] = True
    return _WITH_CACHE[model]


def _grouping(model: PreTrainedModel, rows: Sequence[_Row], observe: _Observe, *, may_pad: bool) -> Grouping:
    first, second = _short_rows(rows)
    differ = max(map(len, rows)) > min(map(len, rows))
    if may_pad and differ and _agree(model, observe, Grouping.PADDED, [first, second[: len(first) // 2]]):
        return Grouping.PADDED
    return Grouping.EQUAL if _agree(model, observe, Grouping.EQUAL, [first, second]) else Grouping.ALONE


def _short_rows(rows: Sequence[_Row]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return two different rows of one length, made from the longest and within the model's positions."""
    longest = max(rows, key=len)
    first = tuple(longest[: max(2, min(_TOKENS, len(longest) - _STEPS))])
    return first, first[::-1] if first[::-1] != first else (*first[:-1], int(first[-1] == 0))


def _agree(model: PreTrainedModel, observe: _Observe, how: Grouping, rows: Sequence[_Row]) -> bool:
    """Tell whether rows get the same results together as alone, up to rounding."""
    known, key = _AGREEMENT.setdefault(model, {}), (observe, how, len(rows[0]))
    if key not in known:
        with torch.inference_mode():
            alone = [observe(model, [row])[0] for row in rows]
            try:
                together = observe(model, rows)
            except (RuntimeError, ValueError, IndexError, TypeError):  # the rows run alone, as was just seen
                known[key] = False
            else:
                tolerance = torch.finfo(main_dtype(model.state_dict())).eps ** 0.5
                known[key] = all(_are_close(*pair, tolerance) for pair in zip(together, alone, strict=True))
    return known[key]


def _continued(model: PreTrainedModel, rows: Sequence[_Row]) -> list[torch.Tensor]:
    """Return the logits of the first tokens of each row's continuation."""
    ids, mask = pad(rows, model.device, left=True)
    config = GenerationConfig(
        max_new_tokens=_STEPS,
        num_beams=1,
        use_cache=runs_with_cache(model),
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    generate: Any = model.generate  # typed as any attribute of a Module
    outputs = generate(input_ids=ids, attention_mask=mask, generation_config=config)
    return list(torch.stack(outputs.logits, 1))


def _read(model: PreTrainedModel, rows: Sequence[_Row]) -> list[torch.Tensor]:
    """Return the logits after each token of each row except the last, which predicts none."""
    ids, mask = pad(rows, model.device, left=False)
    context, seen = ids[:, :-1], mask[:, :-1]
    logits = model(input_ids=context, attention_mask=None if seen.all() else seen, use_cache=False).logits
    return [values[: len(row) - 1] for values, row in zip(logits, rows, strict=True)]


def _are_close(first: torch.Tensor, second: torch.Tensor, tolerance: float) -> bool:
    """Compare logits of shape (steps, vocabulary), up to the first step at which the chosen tokens differ.

    :param tolerance: Relative to the spread of the logits. Rounding differences are far below the square root of the
        dtype's precision; the effect of a token that should be masked is far above.
    """
    steps = min(len(first), len(second))
    same = first[:steps].argmax(-1) == second[:steps].argmax(-1)
    until = int(same.long().cumprod(0).sum()) + 1
    a, b = (values[:until].double().clamp(min=_LEAST_LOGIT) for values in (first[:steps], second[:steps]))
    counts = (a > _LEAST_LOGIT) & (b > _LEAST_LOGIT)
    gaps = torch.where(counts, a - b, 0.0).abs().amax(-1)
    spread = b.amax(-1) - torch.where(counts, b, torch.inf).amin(-1)
    return bool((gaps <= tolerance * spread).all())
