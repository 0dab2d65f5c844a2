"""A PEFT LoRA adapter folder as a task vector, read in factored form.

delta W = scale * B A with scale = lora_alpha / r, or lora_alpha / sqrt(r) for rank-stabilised LoRA, r and lora_alpha by
module where a pattern says so; transposed where the layer stores its weight as in x out (fan_in_fan_out).
Source: Hu et al., "LoRA", arXiv 2106.09685; Kalajdzievski, "rsLoRA", arXiv 2312.03732; PEFT's conventions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskarith.arithmetic.recipe import LowRank
from taskarith.checkpoints.checkpoint import Checkpoint, read_json
from taskarith.checkpoints.header import TensorEntry, read_header
from taskarith.checkpoints.reader import TensorReader, fingerprint_bytes
from taskarith.errors import MismatchError, VectorError, name_some
from taskarith.vectors.form import BaseRecord, Factored

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "AdapterVector",
    "adapter_base",
    "adapter_factors",
    "adapter_tensors",
]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")


def adapter_base(path: Path) -> BaseRecord | None:
    """Return the base that an adapter folder names, without fingerprints, or None where it names none."""
    config = read_json(path / ADAPTER_CONFIG)
    name = config.get("base_model_name_or_path")
    return BaseRecord(str(name), config.get("revision") or None) if name else None


def adapter_tensors(path: Path) -> tuple[TensorEntry, ...]:
    """Return all tensors of an adapter folder, whatever its kind, in file order.

    :raises VectorError: It is pickled.
    """
    weights = path / ADAPTER_WEIGHTS
    if not weights.exists() and (path / "adapter_model.bin").exists():
        raise VectorError(
            f"{path} holds a pickled adapter (adapter_model.bin), which can run code when it is opened",
            "If you trust it, load it with PEFT and save it again with save_pretrained: it writes safetensors.",
        )
    return read_header(weights).tensors


def adapter_factors(path: Path) -> dict[str, tuple[TensorEntry, TensorEntry, float]]:
    """Return A, B and the scale of every module that a LoRA folder targets; no factor is read.

    :raises VectorError: It is no plain LoRA, is pickled, or has tensors that are no factors.
    """
    config = _check_config(path, read_json(path / ADAPTER_CONFIG))
    return {module: (a, b, _scale(config, module, a)) for module, (a, b) in _factors(path).items()}


class AdapterVector:
    """A LoRA adapter against the base it is applied to; its product is never stored.

    :param path: Folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
    :param base: The checkpoint to be edited; its shapes tell which layers are transposed.
    :param record: The base as provenance.
    :raises VectorError: It is no plain LoRA, is pickled, or has tensors that are no factors.
    :raises MismatchError: It targets tensors that the base lacks, or of another shape.
    """

    kind: str = "lora"

    def __init__(self, path: Path, base: Checkpoint, record: BaseRecord | None) -> None:
        factors, config = adapter_factors(path), read_json(path / ADAPTER_CONFIG)
        self.name = str(path)
        self.files: tuple[Path, ...] = (path / ADAPTER_WEIGHTS, path / ADAPTER_CONFIG)
        self.base = record
        self.known: frozenset[str] | None = None
        self.tied: Mapping[str, str] = {}
        self._targets = {
            _stored_name(module, base): _Target(a, b, scale, _is_transposed(a, b, module, config, base))
            for module, (a, b, scale) in factors.items()
        }
        self.shapes: Mapping[str, tuple[int, ...]] = {name: target.shape for name, target in self._targets.items()}
        self._check_base(base)

    def delta(self, tensor: str) -> Factored:
        """Read the factors of one tensor.

        :raises VectorError: They are not finite.
        """
        from numpy import ascontiguousarray

        target = self._targets[tensor]
        with TensorReader() as reader:
            (a, a_bytes), (b, b_bytes) = (_load(entry, reader) for entry in (target.a, target.b))
        left, right = (a.T, b.T) if target.is_transposed else (b, a)
        factors = LowRank(ascontiguousarray(left), ascontiguousarray(right), target.scale)
        return Factored(factors, fingerprint_bytes(a_bytes + b_bytes + str(target.scale).encode()))

    def _check_base(self, base: Checkpoint) -> None:
        absent = [name for name in self.shapes if name not in base.tensors]
        if absent:
            raise MismatchError(
                f"{len(absent)} targets of adapter {self.name} are not in {base.path}: {name_some(absent)}",
                "Apply it to the model it was trained on; a target tied to another tensor cannot be edited alone.",
            )
        wrong = [
            f"{name} {list(shape)} against {list(base.tensors[name].shape)}"
            for name, shape in self.shapes.items()
            if base.tensors[name].shape != shape
        ]
        if wrong:
            raise MismatchError(
                f"{len(wrong)} targets of adapter {self.name} have another shape in {base.path}: {name_some(wrong)}",
                "Apply the adapter to the model it was trained on.",
            )


@dataclass(frozen=True)
class _Target:
    """The factors of one weight: A is rank x in, B is out x rank; a transposed weight is stored in x out."""

    a: TensorEntry
    b: TensorEntry
    scale: float
    is_transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.b.shape[0], self.a.shape[1]
        return (columns, rows) if self.is_transposed else (rows, columns)


def _load(entry: TensorEntry, reader: TensorReader) -> tuple[np.ndarray, bytes]:
    import numpy as np

    from taskarith.arithmetic.wide import decode

    data = bytes(reader.read(entry, 0, entry.nbytes))
    values = decode(data, entry.dtype)
    if not np.isfinite(values).all():
        raise VectorError(f"{entry.name} in {entry.path} has values that are not finite", "Train the adapter again.")
    return values.reshape(entry.shape), data


def _stored_name(module: str, base: Checkpoint) -> str:
    """Return the name of a module's weight in the files, which may lack the model's own prefix, as GPT-2's do."""
    name = f"{module}.weight"
    short = name.partition(".")[2]
    return short if name not in base.tensors and short in base.tensors else name


def _is_transposed(a: TensorEntry, b: TensorEntry, module: str, config: Mapping[str, Any], base: Checkpoint) -> bool:
    """Tell by the base's shape, and for a square weight by the configuration."""
    stored = base.tensors.get(_stored_name(module, base))
    if a.shape[1] == b.shape[0] or stored is None:
        return bool(config.get("fan_in_fan_out"))
    return stored.shape == (a.shape[1], b.shape[0])


def _check_config(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        raise VectorError(
            f"{path} is a {kind} adapter, not LoRA", "Merge it with PEFT and use the merged model folder."
        )
    unsupported = {
        "use_dora": "DoRA, which is not linear in its factors",
        "modules_to_save": "whole modules beside its factors (modules_to_save)",
        "lora_bias": "biases beside its factors (lora_bias)",
        "trainable_token_indices": "trained tokens beside its factors",
        "target_parameters": "factors of bare parameters (target_parameters)",
    }
    for key, what in unsupported.items():
        if config.get(key):
            raise VectorError(f"{path} has {what}", "Merge it with PEFT and use the merged model folder.")
    if config.get("bias", "none") != "none":
        raise VectorError(
            f"{path} has trained biases beside its factors", "Merge it with PEFT and use the merged folder."
        )
    return config


def _factors(path: Path) -> dict[str, tuple[TensorEntry, TensorEntry]]:
    weights = path / ADAPTER_WEIGHTS
    pairs: dict[str, dict[str, TensorEntry]] = {}
    odd = []
    for tensor in adapter_tensors(path):
        match = _FACTOR.fullmatch(tensor.name.removeprefix(_PREFIX))
        if match is None or len(tensor.shape) != 2 or not tensor.is_float:
            odd.append(tensor.name)
        else:
            pairs.setdefault(match["module"], {})[match["factor"]] = tensor
    odd += [f"{module}.lora_{next(iter(pair))}.weight (alone)" for module, pair in pairs.items() if len(pair) != 2]
    if odd:
        raise VectorError(
            f"{len(odd)} tensors of {weights} are no LoRA factors of linear layers: {name_some(odd)}",
            "Merge it with PEFT and use the merged model folder.",
        )
    wrong = [module for module, pair in pairs.items() if pair["A"].shape[0] != pair["B"].shape[1]]
    if wrong:
        raise VectorError(f"the factors of {name_some(wrong)} in {weights} differ in rank", "Save the adapter again.")
    return {module: (pair["A"], pair["B"]) for module, pair in pairs.items()}


def _scale(config: dict[str, Any], module: str, factor: TensorEntry) -> float:
    rank = _by_pattern(config.get("rank_pattern"), module, config.get("r"))
    alpha = _by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    if not rank or rank != factor.shape[0] or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise VectorError(
            f"adapter {factor.path.parent} says rank {rank} and alpha {alpha} for {module}, "
            f"but its factors have rank {factor.shape[0]}",
            "Save the adapter again with PEFT: configuration and weights do not belong together.",
        )
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Return the value of the first pattern that a module's name ends with, as PEFT reads them."""
    for pattern, value in (patterns or {}).items():
        try:
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
                return value
        except re.error as error:
            raise VectorError(f"pattern '{pattern}' of the adapter is no regular expression", "Correct it.") from error
    return default
