"""Models to evaluate: a folder, a hub id or an adapter with its base, opened first and loaded on demand."""

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
from taskarith.checkpoints.dtypes import VECTOR_DTYPES
from taskarith.checkpoints.header import read_header
from taskarith.checkpoints.reader import fingerprint_bytes
from taskarith.checkpoints.resolve import ResolvedModel, resolve_model
from taskarith.checkpoints.team import ALONE, Team
from taskarith.errors import CheckpointError, UsageError
from taskarith.models.device import own_device
from taskarith.models.load import load_config, load_model, load_tokenizer, positions_of
from taskarith.models.runtime import Runtime
from taskarith.progress import Listener
from taskarith.vectors.bases import ChosenBase
from taskarith.vectors.lora.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, REST_WEIGHTS
from taskarith.vectors.open import recorded_base
from taskarith.vectors.vector import BaseRecord

__all__ = ["Loaded", "find_model", "model_record", "open_model", "open_together", "parse_dtype"]


_SLOW_ON_CPU = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Loaded:
    """A model with its configuration and tokenizer; weights are loaded on first access.

    :param name: As the user named it.
    :param resolved: The model's files, or those of an adapter's base.
    :param adapter: The adapter's folder, if it is one.
    :param config: The model's configuration.
    :param tokenizer: The adapter's tokenizer, or else the model's.
    :param end_ids: Tokens that end a text.
    :param stored_dtype: Dtype of most weights in the files.
    :param dtype: Dtype of the weights in memory.
    :param device: Device of the weights.
    :param trust_remote_code: Whether code that comes with the model may run.
    :param device_map: How the weights are spread over all devices of that kind; None for one device.
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
    device_map: str | None = None

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model in memory, in evaluation mode, including the layers of an adapter.

        :raises CheckpointError: Weights are missing, or the adapter does not fit.
        """
        model = load_model(
            self.resolved.path, self.dtype, trust_remote_code=self.trust_remote_code, device_map=self.device_map
        )
        if self.adapter:
            model = _with_adapter(model, self.adapter)
        return model.eval() if self.device_map else model.to(self.device).eval()

    def unload(self) -> None:
        """Free the memory of the weights; no other references to them may exist."""
        self.__dict__.pop("model", None)
        gc.collect()
        clear_device_cache()

    @property
    def place(self) -> str:
        """Where the weights are, in words."""
        return f"all {self.device.type} devices ({self.device_map})" if self.device_map else str(self.device)

    @property
    def positions(self) -> int | None:
        """The model's maximum sequence length; None for no limit."""
        return positions_of(self.config)

    def check_block(self, block_size: int) -> None:
        """Check that a block of tokens fits the model.

        :raises UsageError: It is longer than the model has positions.
        """
        if self.positions is not None and block_size > self.positions:
            raise UsageError(
                f"--block-size {block_size} exceeds the {self.positions} positions of {self.name}",
                f"Use at most {self.positions}.",
            )


def parse_dtype(name: str) -> torch.dtype | None:
    """Read ``auto`` (None), ``float32``, ``bfloat16`` or ``float16``.

    :raises UsageError: It is none of them.
    """
    return None if name == "auto" else TORCH_DTYPES[VECTOR_DTYPES[name]]


def find_model(name: str, listener: Listener) -> tuple[Path | None, ResolvedModel]:
    """Return an adapter's folder, or None, and the files of the model or of the adapter's base.

    :raises CheckpointError: The model does not exist, or the adapter is incomplete.
    :raises MismatchError: The base that the adapter records is not limit.
    """
    adapter = Path(name) if is_adapter(Path(name)) else None
    return adapter, _base_of(adapter, listener) if adapter else resolve_model(name, listener)


def open_together(name: str, runtime: Runtime, listener: Listener, team: Team = ALONE) -> Loaded:
    """Open a model in all processes of a team; the first one downloads or dequantises it.

    :param name: As for ``open_model``.
    :param runtime: Dtype and device of the weights; on a machine with GPUs each process has one of its own.
    :raises UsageError: The dtype or the device is unknown or not available, or as for ``open_model``.
    :raises CheckpointError: As for ``open_model``.
    """
    device, dtype = own_device(runtime, team), parse_dtype(runtime.dtype)
    if team.size > 1:
        team.by_first(lambda: bool(find_model(name, listener)))
    how = {"trust_remote_code": runtime.trust_remote_code, "device_map": runtime.device_map}
    return open_model(name, device, dtype, listener, **how)


def open_model(
    name: str,
    device: torch.device,
    dtype: torch.dtype | None,
    listener: Listener,
    *,
    trust_remote_code: bool = False,
    device_map: str | None = None,
) -> Loaded:
    """Open a model, or an adapter with its base; read and check everything but the weights.

    Without a dtype a model keeps that of its files, except that half precision becomes float32 on a CPU: few CPUs are
    faster in half precision, and results then do not depend on the CPU.

    :param name: A model folder, hub id or GGUF file, or a PEFT adapter folder.
    :param device: Device of the weights.
    :param dtype: Dtype of the weights in memory; None for the default.
    :param trust_remote_code: Run Python code that comes with the model.
    :param device_map: How the weights are spread over all devices of that kind; None for one device.
    :raises UsageError: The model has its own code, which is not trusted.
    :raises CheckpointError: The model does not exist, or its files are incomplete or unsafe.
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
        device_map,
    )


def model_record(loaded: Loaded) -> dict[str, Any]:
    """Return a model's entry in ``taskarith.json``: its origin, its fingerprint and its dtype in memory."""
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
            f"{adapter} does not contain {ADAPTER_WEIGHTS}",
            "Save the adapter with PEFT's save_pretrained, as safetensors.",
        )
    if (adapter / REST_WEIGHTS).exists():
        raise CheckpointError(
            f"{adapter} has deltas in {REST_WEIGHTS}, which PEFT does not load",
            f"Write the merged model and evaluate it: taskarith apply --add {adapter} -o merged",
        )
    chosen = ChosenBase(recorded.locate(listener), recorded, is_named=False)
    base = chosen.open()
    if recorded.base.fingerprint:
        chosen.check(fingerprint_tensors(base, listener))
    return chosen.resolved


def _check_adapter(adapter: Path) -> None:
    """Refuse an adapter that cannot be read, or does not change weights, before its base is loaded."""
    from peft import PeftConfig  # late: it takes as long as torch to import

    read_header(adapter / ADAPTER_WEIGHTS)
    try:
        config = PeftConfig.from_pretrained(str(adapter))
    except Exception as error:  # PEFT raises all kinds of exceptions
        raise _adapter_error(adapter, error) from error
    if config.is_prompt_learning:
        raise CheckpointError(
            f"{adapter} is a {config.peft_type.value} adapter: it puts tokens before the text",
            "Evaluate adapters that change weights, such as LoRA.",
        )


def _with_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """Add an adapter's layers to a model, without merging."""
    from peft import PeftModel

    from taskarith.training.lora import MISLEADING_REMARKS

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of no interest to the user
            warnings.filterwarnings("error", message="Found missing adapter keys")
            warnings.filterwarnings("ignore", message=MISLEADING_REMARKS)
            adapted = PeftModel.from_pretrained(model, str(adapter))
    except Exception as error:  # PEFT raises all kinds of exceptions
        raise _adapter_error(adapter, error) from error
    inner = adapted.get_base_model()
    assert isinstance(inner, PreTrainedModel)  # noqa: S101  (the given model with added layers)
    return inner


def _adapter_error(adapter: Path, error: Exception) -> CheckpointError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return CheckpointError(
        f"the adapter {adapter} does not fit its base: {reason}",
        "Check that its base_model_name_or_path is the base it was trained on.",
    )


def _tokenizer_folder(adapter: Path | None, base: Path) -> Path:
    return adapter if adapter and (adapter / "tokenizer_config.json").is_file() else base


def _end_ids(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the end tokens of the generation configuration, or else of the model's, and of the tokenizer."""
    path = checkpoint.path / "generation_config.json"
    config = read_json(path) if path.is_file() else {}
    ends = config.get("eos_token_id", checkpoint.config.get("eos_token_id"))
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(token for token in (*listed, tokenizer.eos_token_id) if isinstance(token, int))
