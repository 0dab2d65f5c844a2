"""The language part of a model: the parameters that text reaches, and a check that the model is causal."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from taskarith.errors import CheckpointError

__all__ = [
    "can_run",
    "has_token_loss",
    "is_multimodal",
    "modules_outside",
    "names_outside",
    "plain_tokens",
    "prepare_for_text",
    "run_on_text",
]

_HINT = "Use a causal language model, or a vision-language model that runs without pictures."
_HALF = 3


def can_run(module: torch.nn.Module) -> bool:
    """Tell whether the weights are in memory; FSDP and DeepSpeed shard them until training begins."""
    return not any(parameter.is_meta or hasattr(parameter, "ds_id") for parameter in module.parameters())


def is_multimodal(model: PreTrainedModel) -> bool:
    """Tell whether the language model is only one part of the model."""
    return model.config.get_text_config() is not model.config


def names_outside(model: PreTrainedModel) -> list[str]:
    """Return the parameters that text does not reach, such as those of a vision tower and its projector."""
    language = _language_parameters(model)
    return [name for name, parameter in model.named_parameters() if id(parameter) not in language]


def modules_outside(model: PreTrainedModel) -> list[str]:
    """Return the outermost modules none of whose parameters text reaches."""
    language = _language_parameters(model)
    modules: list[str] = []
    for name, module in model.named_modules():
        own = {id(parameter) for parameter in module.parameters()}
        if own and not own & language and not any(name.startswith(f"{other}.") for other in modules):
            modules.append(name)
    return modules


def prepare_for_text(model: PreTrainedModel) -> None:
    """Check that a model runs on text alone and that no prediction depends on a later token.

    In a vision-language model, token types may decide which tokens attend to later ones; if text needs them, they are
    filled in from now on.

    :raises CheckpointError: It does not run without images or audio, or it attends to later tokens.
    """
    if not can_run(model):
        return
    multimodal = is_multimodal(model)
    takes_types = multimodal and "token_type_ids" in inspect.signature(model.forward).parameters
    reasons = []
    for token_type in (None, 0, 1) if takes_types else (None,):
        reason = _refusal(model, token_type, modes=(False, True) if multimodal else (False,))
        if reason is None:
            if token_type is not None:
                fill = partial(_fill_types, token_type)
                model.base_model.register_forward_pre_hook(fill, with_kwargs=True)
            return
        reasons.append(reason)
    raise CheckpointError(f"{type(model).__name__} {reasons[0]}", _HINT)


def has_token_loss(model: PreTrainedModel) -> bool:
    """Tell whether the model's own loss is the sum over next tokens divided by ``num_items_in_batch``.

    Decoders made for translation compare each token with itself and divide by the tokens of the batch.
    """
    if not can_run(model):
        return True
    start, first, _ = plain_tokens(model.config)
    labels, count = torch.tensor([start + first], device=model.device), torch.tensor(100, device=model.device)
    try:
        with torch.no_grad():
            inputs = {"input_ids": labels, "attention_mask": torch.ones_like(labels), "use_cache": False}
            output = model(**inputs, labels=labels, num_items_in_batch=count)
            logits = output.logits[0, :-1].float()
            expected = torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum") / count
    except Exception:  # its code does not support this; only the logits are needed
        return False
    balances_experts = getattr(output, "aux_loss", None) is not None
    return balances_experts or torch.allclose(output.loss.float(), expected, rtol=0.02)


def run_on_text(model: torch.nn.Module, config: PretrainedConfig, token_type: int | None = None) -> torch.Tensor:
    """Return the logits of two short texts that differ in their second halves, of shape (2, tokens, vocabulary)."""
    start, first, second = plain_tokens(config)
    ids = torch.tensor([start + first, start + second], device=next(model.parameters()).device)
    types = {} if token_type is None else {"token_type_ids": torch.full_like(ids, token_type)}
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **types).logits
    if logits.shape[:2] != ids.shape:
        raise ValueError(f"its output for {ids.shape[1]} tokens has shape {list(logits.shape[1:])}")
    return logits


def _language_parameters(model: PreTrainedModel) -> set[int]:
    """Return the ids of the language model's parameters: embeddings, decoder and output layer."""
    parts: list[torch.nn.Module] = [model]
    if is_multimodal(model):
        parts = [model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings() or torch.nn.Module()]
    return {id(parameter) for part in parts for parameter in part.parameters()}


def _refusal(model: PreTrainedModel, token_type: int | None, modes: tuple[bool, ...]) -> str | None:
    """Return why a model cannot be used with a token type, or None."""
    try:
        with torch.random.fork_rng(devices=[]):  # dropout uses random numbers
            leaks = [_sees_later_tokens(model.train(mode), token_type) for mode in modes]
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        return f"does not run on text alone: {reason}"
    finally:
        model.eval()
    return "is not a causal language model: its predictions depend on later tokens" if any(leaks) else None


def _sees_later_tokens(model: PreTrainedModel, token_type: int | None) -> bool:
    """Tell whether predictions in the common half of two texts depend on the rest."""
    with torch.no_grad():
        logits = run_on_text(model, model.config, token_type)
    if torch.equal(logits[0, :_HALF], logits[1, :_HALF]) or not logits.isfinite().all():
        return False  # broken weights are reported by later measurements
    # Dropout and the load of experts also change bits, but the gradient is exactly 0 all the same.
    embedded: list[torch.Tensor] = []
    handle = model.get_input_embeddings().register_forward_hook(lambda *call: embedded.append(call[-1]))
    try:
        with torch.enable_grad():
            logits = run_on_text(model, model.config, token_type)
            [gradient] = torch.autograd.grad(logits[:, :_HALF].float().square().sum(), embedded[:1])
    finally:
        handle.remove()
    return gradient.shape[:2] != logits.shape[:2] or bool((gradient[:, _HALF:] != 0).any())


def plain_tokens(config: PretrainedConfig) -> tuple[list[int], list[int], list[int]]:
    """Return three short lists of ordinary tokens, none of which is a placeholder for an image."""
    special = set(_token_ids(config.to_dict()))
    plain = [token for token in range(config.get_text_config().vocab_size) if token not in special]
    return plain[-_HALF:], plain[-2 * _HALF : -_HALF], plain[-3 * _HALF : -2 * _HALF]


def _token_ids(config: Mapping[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _token_ids(value)
        elif isinstance(value, int) and "token" in str(key):
            yield value


def _fill_types(
    token_type: int, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    del module
    ids = kwargs.get("input_ids")
    if kwargs.get("token_type_ids") is None and ids is not None:
        kwargs["token_type_ids"] = torch.full_like(ids, token_type)
    return args, kwargs
