"""LoRA for the language part of a model: the layers PEFT can adapt, and the weights it leaves out."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from peft import (
    LoraConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from taskarith.errors import UsageError, name_some
from taskarith.models.language import can_run, modules_outside, names_outside, run_on_text
from taskarith.progress import SILENT, Listener
from taskarith.training.quantised import is_quantised, without_weights
from taskarith.training.settings import TrainingSettings

__all__ = ["MISLEADING_REMARKS", "add_lora"]

_Layers = Mapping[str, torch.nn.Module]

MISLEADING_REMARKS = r"The following (rank|alpha)_pattern keys|fan_in_fan_out is set to"
"""Start of misleading warnings of PEFT: on patterns that it does apply to experts, on a setting that it corrects."""


def add_lora(
    model: PreTrainedModel, settings: TrainingSettings, listener: Listener, within: Sequence[str] | None = None
) -> PeftModel:
    """Add trainable low-rank factors to linear layers of the language model, and freeze the rest.

    :param model: The model; its layers are replaced in place.
    :param settings: Rank, alpha and targets.
    :param listener: Receives notes on weights without factors.
    :param within: Names of the only modules whose layers are adapted; None for all.
    :raises UsageError: A target is not a linear layer, is an output layer tied to the embeddings, or is refused by
        PEFT; or the model does not run with the adapter.
    """
    layers = _linear_layers(model)
    odd = [name for name, layer in layers.items() if not _is_plain(layer)]
    usable = [name for name in layers if name not in odd]
    if unknown := [target for target in settings.lora_target if not any(_ends(name, [target]) for name in usable)]:
        raise _unknown_targets(unknown, usable, odd)
    if not settings.lora_target:
        usable = [name for name in usable if layers[name] is not model.get_output_embeddings()]
    outside, shared = modules_outside(model), _sharing(layers)
    elsewhere = [name for name in layers if within is not None and not _is_in(name, within)]
    usable = [name for name in usable if name not in shared and name not in elsewhere]
    avoided = [*outside, *odd, *shared, *elsewhere]
    refused, lost = _try_peft(model, settings, layers, usable, avoided)
    matrices = _matrices(model, layers)
    try:
        adapted = _inject(model, _config(settings, layers, [*avoided, *lost], refused), listener)
    except ValueError as error:
        raise _cannot_adapt(model, settings, usable, error) from error
    _check_runs(adapted, model)
    if elsewhere:
        listener.note(f"LoRA adapts {name_some(within or ())} only")
    if outside:
        listener.note(f"LoRA adapts the language model only, not {name_some(outside)}")
    if shared:
        listener.note(f"LoRA leaves out {len(shared)} layers that share their weights: {name_some(shared, 3)}")
    if lost:
        listener.note(
            f"LoRA leaves out {len(lost)} layers whose factors PEFT would not load again: {name_some(lost, 3)}"
        )
    if not settings.lora_target:
        reached = set(_adapted_parameters(adapted))
        rest = [name for number, name in matrices.items() if number not in reached]
        noted = {*lost, *shared, *elsewhere}
        _note_left_out([name for name in rest if name.removesuffix(".weight") not in noted], odd, refused, listener)
    return adapted


def _linear_layers(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """Return the linear layers of the language model, except a head tied to the embeddings."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head if head is not None and head.weight is embeddings.weight else None
    outside = set(names_outside(model))
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not tied and f"{name}.weight" not in outside
    }


def _sharing(layers: _Layers) -> list[str]:
    """Return the layers that share a weight, which separate factors would change several times."""
    counts = Counter(id(layer.weight) for layer in layers.values())
    return [name for name, layer in layers.items() if counts[id(layer.weight)] > 1]


def _is_plain(layer: torch.nn.Module) -> bool:
    """Tell whether a linear layer only multiplies by its weight, as LoRA assumes."""
    if is_quantised(layer) or type(layer).forward in (torch.nn.Linear.forward, Conv1D.forward):
        return True
    if not isinstance(layer, torch.nn.Linear) or not can_run(layer):
        return False
    inputs = torch.linspace(-1, 1, layer.in_features, dtype=layer.weight.dtype).expand(1, 2, -1)
    with torch.no_grad():
        expected = torch.nn.functional.linear(inputs, layer.weight, layer.bias)
        try:
            output = layer(inputs)
        except Exception:
            return False
    return (
        isinstance(output, torch.Tensor)
        and output.shape == expected.shape
        and torch.allclose(output, expected, 1e-2, 1e-2)
    )


def _config(settings: TrainingSettings, layers: _Layers, avoided: Sequence[str], refused: Iterable[str]) -> LoraConfig:
    """Make PEFT's configuration, which selects layers by the ends of their names and excludes others."""
    excluded = [rf"{re.escape(name)}(\..*)?" for name in avoided] + [rf".*\.{re.escape(name)}" for name in refused]
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.alpha,  # ty: ignore[invalid-argument-type]  (PEFT divides it by r, so any number works)
        target_modules=list(settings.lora_target) or "all-linear",
        exclude_modules="|".join(excluded) or None,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
        task_type=TaskType.CAUSAL_LM,
    )


def _try_peft(
    model: PreTrainedModel, settings: TrainingSettings, layers: _Layers, usable: Sequence[str], avoided: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Try PEFT on a model without weights.

    :return: Last components of the names of layers that PEFT refuses, and layers whose factors it would not find again
        when loading, because it misreads their names.
    :raises UsageError: Such layers were requested, or PEFT refuses the whole model.
    """
    refused: list[str] = []
    lost: list[str] = []
    while (trial := without_weights(model)) is not None:
        try:
            with torch.random.fork_rng(devices=[]):  # PEFT initialises factors at random
                adapted = _inject(trial, _config(settings, layers, [*avoided, *lost], refused), SILENT)
        except ValueError as error:
            left = [name for name in usable if name not in lost and not _ends(name, refused)]
            stuck = next((name for name in left if not isinstance(trial.get_submodule(name), BaseTunerLayer)), None)
            if settings.lora_target or stuck is None:
                raise _cannot_adapt(model, settings, usable, error) from error
            refused.append(stuck.rpartition(".")[2])
            continue
        not_loaded = _not_loaded(adapted)
        if not not_loaded:
            break
        if set(not_loaded) <= set(lost):
            raise _cannot_adapt(model, settings, usable, f"it would not load {name_some(not_loaded)} again")
        lost += not_loaded
    return refused, lost


def _not_loaded(adapted: PeftModel) -> list[str]:
    """Return the layers whose factors PEFT does not find again after writing them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = set_peft_model_state_dict(adapted, get_peft_model_state_dict(adapted, save_embedding_layers=False))
    names = [name.removeprefix("base_model.model.") for name in result.missing_keys if ".lora_" in name]
    return sorted({name.partition(".lora_")[0] for name in names})


def _cannot_adapt(
    model: PreTrainedModel, settings: TrainingSettings, usable: Sequence[str], reason: ValueError | str
) -> UsageError:
    targets = ", ".join(settings.lora_target) or "all linear layers"
    return UsageError(
        f"PEFT cannot adapt {targets} of {type(model).__name__}: {str(reason).strip().partition(chr(10))[0]}",
        f"Choose other layers with --lora-target; the model has {', '.join(_last_parts(usable))}.",
    )


def _inject(model: PreTrainedModel, config: LoraConfig, listener: Listener) -> PeftModel:
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        adapted = get_peft_model(model, config)
    for remark in remarks:
        is_for_developers = issubclass(remark.category, FutureWarning | DeprecationWarning)
        if not is_for_developers and not re.match(MISLEADING_REMARKS, str(remark.message)):
            listener.note(f"PEFT: {remark.message}")
    assert isinstance(adapted, PeftModel)  # noqa: S101  (a mixed model only on request)
    return adapted


def _check_runs(adapted: PeftModel, model: PreTrainedModel) -> None:
    """Check that the model runs with PEFT's layers, and that gradients reach them.

    In layers with their own backward pass, such as reversible ones, gradients reach nothing unless the inputs require
    gradients.
    """
    if not can_run(model):
        return
    try:
        if not _depends_on_factors(adapted, model):
            model.enable_input_require_grads()
            if not _depends_on_factors(adapted, model):
                raise ValueError("no gradient reaches them")
    except Exception as error:
        raise UsageError(
            f"{type(model).__name__} does not run with PEFT's LoRA layers: {type(error).__name__}: {error}",
            "Choose the layers to adapt, as in --lora-target q_proj --lora-target v_proj, or train without --lora.",
        ) from error


def _depends_on_factors(adapted: PeftModel, model: PreTrainedModel) -> bool:
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        return run_on_text(adapted, model.config).requires_grad


def _adapted_parameters(adapted: PeftModel) -> Iterator[int]:
    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer):  # for experts in one tensor it names the parameter
            yield id(getattr(module.get_base_layer(), getattr(module, "parameter_name", "weight")))


def _matrices(model: PreTrainedModel, layers: _Layers) -> dict[int, str]:
    """Return the weights that LoRA is expected to adapt: linear layers except the output, and experts."""
    modules, outside = dict(model.named_modules()), set(names_outside(model))
    matrices = {}
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        is_linear = owner in layers and leaf == "weight" and layers[owner] is not model.get_output_embeddings()
        is_convolution = isinstance(modules[owner], torch.nn.modules.conv._ConvNd)
        has_several = parameter.dim() > 2 and min(parameter.shape[-2:]) > 1 and not is_convolution
        if name not in outside and (is_linear or has_several):
            matrices[id(parameter)] = name
    return matrices


def _note_left_out(lost: Sequence[str], odd: Sequence[str], refused: Sequence[str], listener: Listener) -> None:
    """Note the weights without factors, with the reason if known."""
    if odd:
        listener.note(f"LoRA leaves out {len(odd)} layers that compute more than a product: {name_some(odd, 3)}")
    layers = [name.removesuffix(".weight") for name in lost]
    if by_peft := [name for name in layers if _ends(name, refused)]:
        listener.note(f"LoRA leaves out {len(by_peft)} layers that PEFT refuses: {name_some(by_peft, 3)}")
    if others := [name for name in layers if name not in odd and name not in by_peft]:
        listener.note(f"LoRA does not reach {len(others)} weights: {name_some(others, 3)}")


def _is_in(name: str, modules: Iterable[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _ends(name: str, ends: Iterable[str]) -> bool:
    return any(f".{name}".endswith(f".{end}") for end in ends)


def _last_parts(names: Iterable[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})


def _unknown_targets(unknown: Sequence[str], usable: Sequence[str], odd: Sequence[str]) -> UsageError:
    targets = ", ".join(unknown)
    hint = f"The model has {', '.join(_last_parts(usable))}."
    if all(any(_ends(name, [target]) for name in odd) for target in unknown):
        return UsageError(
            f"--lora-target {targets}: these layers compute more than a product, which LoRA cannot adapt", hint
        )
    return UsageError(f"--lora-target {targets}: the model does not have these linear layers", hint)
