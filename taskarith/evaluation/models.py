"""Models to evaluate: a folder, a hub id or an adapter on its base; opened first, and loaded when they are needed."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from peft import PeftConfig, PeftModel
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from taskarith.arithmetic.torch import TORCH_DTYPES
from taskarith.checkpoints.checkpoint import (
    Checkpoint,
    fingerprint_model,
    fingerprint_tensors,
    is_adapter,
    open_checkpoint,
    read_json,
)
from taskarith.checkpoints.dtypes import MODEL_DTYPES, VECTOR_DTYPES
from taskarith.checkpoints.header import read_header
from taskarith.checkpoints.reader import fingerprint_bytes
from taskarith.checkpoints.resolve import ResolvedModel, resolve_model
from taskarith.errors import CheckpointError, UsageError
from taskarith.models.load import load_config, load_model, load_tokenizer
from taskarith.progress import Listener
from taskarith.training.lora import MISLEADING_REMARKS
from taskarith.vectors.bases import ChosenBase
from taskarith.vectors.lora.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, REST_WEIGHTS
from taskarith.vectors.open import recorded_base
from taskarith.vectors.vector import BaseRecord

__all__ = ["Loaded", "find_model", "model_record", "open_model", "parse_dtype"]


_SLOW_ON_CPU = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Loaded:
    """A model with all that belongs to it; the weights are loaded when they are first looked at.

    :param name: As the user named it.
    :param resolved: The model's files; of an adapter, its base's.
    :param adapter: The adapter's folder, if it is one.
    :param config: Of the model, as transformers reads it.
    :param tokenizer: The adapter's, where it has one, or the model's.
    :param end_ids: Tokens that end a text.
    :param stored_dtype: Of most of the weights in the files.
    :param dtype: Of the weights in memory.
    :param device: Where they are.
    :param trust_remote_code: Whether the code that comes with the model may run.
    """

    name: str
    resolved: ResolvedModel
    adapter: Path | None
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    end_ids: frozenset[int]
    stored_dtype: torch.dtype
    dtype: torch.dtype
    device: torch.device
    trust_remote_code: bool

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model in memory, in evaluation mode, with the adapter's layers in place, if it is one.

        :raises CheckpointError: Weights are missing, or the adapter does not fit.
        """
        model = load_model(self.resolved.path, self.dtype, trust_remote_code=self.trust_remote_code)
        if self.adapter:
            model = _with_adapter(model, self.adapter)
        return model.to(self.device).eval()

    def unload(self) -> None:
        """Give back the memory that the weights take; nobody else may refer to them."""
        self.__dict__.pop("model", None)
        gc.collect()
        clear_device_cache()

    @property
    def positions(self) -> int | None:
        """The longest sequence that the model can take; None where there is no limit."""
        found = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return None if found is None or found < 1 else found  # XLNet says -1: as many as there are

    def check_block(self, block_size: int) -> None:
        """Make sure that a block of so many tokens fits.

        :raises UsageError: It is longer than the model has positions.
        """
        if self.positions is not None and block_size > self.positions:
            raise UsageError(
                f"--block-size {block_size} is more than the {self.positions} positions of {self.name}",
                f"Use at most {self.positions}.",
            )


def parse_dtype(name: str) -> torch.dtype | None:
    """Read ``auto`` (None), ``float32``, ``bfloat16`` or ``float16``.

    :raises UsageError: It is none of them.
    """
    if name != "auto" and name not in MODEL_DTYPES:
        raise UsageError(f"unknown dtype '{name}'", f"Choose auto, {', '.join(MODEL_DTYPES)}.")
    return None if name == "auto" else TORCH_DTYPES[VECTOR_DTYPES[name]]


def find_model(name: str, listener: Listener) -> tuple[Path | None, ResolvedModel]:
    """Return the adapter's folder, if it is one, and the files of the model or of the adapter's base.

    :raises CheckpointError: There is no such model, or the adapter is incomplete.
    :raises MismatchError: The base that the adapter records is not found.
    """
    adapter = Path(name) if is_adapter(Path(name)) else None
    return adapter, _base_of(adapter, listener) if adapter else resolve_model(name, listener)


def open_model(
    name: str, device: torch.device, dtype: torch.dtype | None, listener: Listener, *, trust_remote_code: bool = False
) -> Loaded:
    """Open a model, or an adapter folder on the base that it names; all is read and checked but the weights.

    Without a dtype a model keeps that of its files, except that on a CPU half precision becomes float32: few CPUs
    calculate faster in it, and the numbers then do not depend on which.

    :param name: A folder, a hub id or GGUF; or a PEFT adapter folder.
    :param device: Where to put it.
    :param dtype: Of its weights in memory; None chooses.
    :param trust_remote_code: Run the code that comes with the model.
    :raises UsageError: The model brings its own code, which is not trusted.
    :raises CheckpointError: There is no such model, or its files are incomplete or unsafe.
    """
    adapter, resolved = find_model(name, listener)
    checkpoint = open_checkpoint(resolved.path)
    config = load_config(checkpoint, trust_remote_code=trust_remote_code)
    stored = _stored_dtype(checkpoint)
    tokenizer = load_tokenizer(_tokenizer_folder(adapter, resolved.path), trust_remote_code=trust_remote_code)
    if adapter:
        _check_adapter(adapter)
    return Loaded(
        name,
        resolved,
        adapter,
        config,
        tokenizer,
        _end_ids(checkpoint, tokenizer),
        stored,
        dtype or (torch.float32 if device.type == "cpu" and stored in _SLOW_ON_CPU else stored),
        device,
        trust_remote_code,
    )


def model_record(loaded: Loaded) -> dict[str, Any]:
    """Return what ``taskarith.json`` says of a model: where it is from, its fingerprint, its dtype in memory."""
    model = loaded.resolved
    base = BaseRecord(model.recorded_name, model.revision, fingerprint_model(model.path))
    record: dict[str, Any] = {**base.to_json(), "dtype": str(loaded.dtype).removeprefix("torch.")}
    if loaded.adapter is None:
        return record
    weights = (loaded.adapter / ADAPTER_WEIGHTS).read_bytes()
    return {"name": str(loaded.adapter.resolve()), "fingerprint": fingerprint_bytes(weights), "base": record}


def _stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    counts: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        counts[tensor.dtype] += tensor.elements if tensor.is_float else 0
    dtype, elements = max(counts.items(), key=lambda item: item[1], default=("F32", 0))
    return TORCH_DTYPES[dtype] if elements else torch.float32


def _base_of(adapter: Path, listener: Listener) -> ResolvedModel:
    hint = f"Correct base_model_name_or_path in {adapter / ADAPTER_CONFIG}."
    recorded = recorded_base(str(adapter), listener, hint=hint)
    if recorded is None:
        raise CheckpointError(
            f"the adapter {adapter} does not name its base model",
            f"Fill in base_model_name_or_path in {adapter / ADAPTER_CONFIG}.",
        )
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(
            f"{adapter} has no {ADAPTER_WEIGHTS}", "Save the adapter with PEFT's save_pretrained, as safetensors."
        )
    if (adapter / REST_WEIGHTS).exists():
        raise CheckpointError(
            f"{adapter} holds deltas that PEFT has no place for ({REST_WEIGHTS}): evaluated so, it would lack them",
            f"Write the model, and evaluate that: taskarith apply --add {adapter} -o merged",
        )
    chosen = ChosenBase(recorded.locate(listener), recorded, is_named=False)
    base = chosen.open()
    if recorded.base.fingerprint:
        chosen.check(fingerprint_tensors(base, listener))
    return chosen.resolved


def _check_adapter(adapter: Path) -> None:
    """Refuse an adapter that cannot be read, or does not change weights, before its base is loaded."""
    read_header(adapter / ADAPTER_WEIGHTS)
    try:
        config = PeftConfig.from_pretrained(str(adapter))
    except Exception as error:  # of as many kinds as there are adapters
        raise _misfit(adapter, error) from error
    if config.is_prompt_learning:
        raise CheckpointError(
            f"{adapter} is a {config.peft_type.value} adapter: it puts tokens before the text",
            "Evaluate adapters that change weights, such as LoRA.",
        )


def _with_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """Put an adapter's layers into a model; nothing is merged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers, not the user's affair
            warnings.filterwarnings("error", message="Found missing adapter keys")
            warnings.filterwarnings("ignore", message=MISLEADING_REMARKS)
            adapted = PeftModel.from_pretrained(model, str(adapter))
    except Exception as error:  # of as many kinds as there are adapters
        raise _misfit(adapter, error) from error
    inner = adapted.get_base_model()
    assert isinstance(inner, PreTrainedModel)  # noqa: S101  (it is the model given, with layers put in)
    return inner


def _misfit(adapter: Path, error: Exception) -> CheckpointError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return CheckpointError(
        f"the adapter {adapter} does not fit its base: {reason}", "Check that it names the base it was trained on."
    )


def _tokenizer_folder(adapter: Path | None, base: Path) -> Path:
    return adapter if adapter and (adapter / "tokenizer_config.json").is_file() else base


def _end_ids(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the end tokens of the generation configuration (or else of the model's) and of the tokenizer."""
    path = checkpoint.path / "generation_config.json"
    config = read_json(path) if path.is_file() else {}
    ends = config.get("eos_token_id", checkpoint.config.get("eos_token_id"))
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(token for token in (*listed, tokenizer.eos_token_id) if isinstance(token, int))
