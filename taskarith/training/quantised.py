"""A base in 4 or 8 bits under an adapter (QLoRA): only the frozen layers in memory are quantised.

Sources: QLoRA, arXiv:2305.14314 (4 bits: NF4 with quantised constants); LLM.int8, arXiv:2208.07339 (8 bits).
"""

from __future__ import annotations

import copy
import importlib.util
import logging

import torch
from accelerate.utils import parse_flag_from_env
from transformers import BitsAndBytesConfig, PreTrainedModel, TrainingArguments
from transformers.pytorch_utils import Conv1D

from taskarith.errors import UsageError, name_some
from taskarith.training.settings import TrainingSettings

__all__ = ["check_quantised", "check_replaced", "is_quantised", "quantisation", "without_weights"]

_REMARKS = "bitsandbytes.autograd._functions"
"""What says of every product in 8 bits that its inputs are cast."""


def check_quantised(settings: TrainingSettings, arguments: TrainingArguments) -> None:
    """Refuse a quantised base where nothing can train it.

    :raises UsageError: All weights are to be trained, the device cannot do it, bitsandbytes is missing, or FSDP or
        DeepSpeed would shard what is quantised.
    """
    if not settings.quantised:
        return
    option = f"--load-in-{settings.quantised}"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f"{option} needs bitsandbytes", "Install it: pip install 'taskarith[quantized]'")
    if arguments.device.type not in {"cpu", "cuda"}:
        raise UsageError(f"{option} does not work on {arguments.device.type}", "Use --device cuda or --device cpu.")
    if any(parse_flag_from_env(f"ACCELERATE_USE_{what}") for what in ("FSDP", "DEEPSPEED")):
        raise UsageError(
            f"{option} keeps a whole base in each process, which FSDP and DeepSpeed would shard",
            f"Leave out {option}, or launch without them: each process then has a copy of the quantised base.",
        )


def quantisation(settings: TrainingSettings, compute: torch.dtype) -> BitsAndBytesConfig | None:
    """Return how linear layers are quantised while the base is loaded; None if they are not.

    :param compute: Dtype of the products with 4-bit weights.
    """
    if not settings.quantised:
        return None
    if settings.load_in_8bit:
        logging.getLogger(_REMARKS).setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def is_quantised(layer: torch.nn.Module) -> bool:
    """Tell whether a layer is one that bitsandbytes has put in the place of a linear one."""
    return type(layer).__module__.startswith("bitsandbytes.")


def check_replaced(model: PreTrainedModel) -> None:
    """Refuse a model in which more than plain linear layers was replaced: what else they calculate would be lost.

    :param model: Loaded with quantised layers.
    :raises UsageError: A layer was more than a product, or cannot be compared with the model's code.
    """
    plain = without_weights(model)
    odd = [
        name
        for name, layer in model.named_modules()
        if is_quantised(layer)
        and (plain is None or type(plain.get_submodule(name)).forward not in (torch.nn.Linear.forward, Conv1D.forward))
    ]
    if odd:
        raise UsageError(
            f"bitsandbytes would replace layers of {type(model).__name__} that compute more than a product: "
            f"{name_some(odd)}",
            "Train an adapter on the model as it is: leave out --load-in-4bit or --load-in-8bit.",
        )


def without_weights(model: PreTrainedModel) -> PreTrainedModel | None:
    """Build the model on the meta device, not quantised; None if the code of its class needs real weights."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    try:
        with torch.device("meta"):
            return type(model)(config)
    except Exception:  # the code of a class may raise anything
        return None
