"""What a PEFT LoRA folder holds, by module: factors, trained biases, saved modules, trained tokens; nothing is read.

Names and layouts are those that PEFT 0.21 writes. A module whose bare parameters are targeted has one pair of factors
for each of them, wrapped in each other as ``base_layer``; those of many experts stand in one pair.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskarith.checkpoints.checkpoint import ADAPTER_CONFIG
from taskarith.checkpoints.header import TensorEntry, read_header
from taskarith.errors import VectorError, name_some
from taskarith.vectors.copies import has_same_values
from taskarith.vectors.lora.config import MERGE, by_pattern, check_config, matches, read_adapter_config

__all__ = ["ADAPTER_CONFIG", "ADAPTER_WEIGHTS", "Adapter", "Factors", "adapter_tensors", "read_adapter", "scale_of"]

ADAPTER_WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_WRAPPED = ".base_layer"
_PART = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<factor>[AB])\.weight|lora_embedding_(?P<embedding>[AB])|lora_B\.(?P<bias>bias)"
    r"|lora_(?P<magnitude>magnitude)_vector(?:\.weight)?|token_adapter\.trainable_(?P<tokens>tokens)_delta)"
)
_GATHER = "Gather the weights before saving: accelerator.get_state_dict(model), or zero_to_fp32.py on the checkpoint."
_RENAME = "Rename them to what PEFT's save_pretrained writes, base_model.model.MODULE.lora_A.weight, and save it again."
_NAMED = re.compile(r"(lora_\w+|modules_to_save)\.default(?=\.weight$|\.bias$|$)")
"""The name of an adapter, which a model's ``state_dict`` has in its names; PEFT loads them all the same."""


@dataclass(frozen=True)
class Factors:
    """The factors of one weight, or of one parameter of all experts.

    :param module: The module, as PEFT names it.
    :param a: rank x in; for an embedding rank x tokens.
    :param b: out x rank; for an embedding width x rank.
    :param is_embedding: Whether the weight is the transpose of ``b a``.
    :param bias: What is added to the layer's bias, or None.
    :param magnitude: DoRA's norms, one for each output (each column of an embedding), or None.
    """

    module: str
    a: TensorEntry
    b: TensorEntry
    is_embedding: bool = False
    bias: TensorEntry | None = None
    magnitude: TensorEntry | None = None


@dataclass(frozen=True)
class Adapter:
    """A LoRA folder, sorted.

    :param path: The folder.
    :param config: ``adapter_config.json``.
    :param factors: Of each module: one pair for its weight, or one for each of its parameters that are targeted, the
        outermost first.
    :param whole: Tensors that are saved as they are: modules_to_save and trained biases, by their names.
    :param copies: Copies of base weights, which PEFT saves with a targeted embedding.
    :param tokens: Rows of embeddings, and their numbers.
    """

    path: Path
    config: Mapping[str, Any]
    factors: dict[str, list[Factors]] = field(default_factory=dict)
    whole: dict[str, TensorEntry] = field(default_factory=dict)
    copies: dict[str, TensorEntry] = field(default_factory=dict)
    tokens: dict[str, tuple[TensorEntry, tuple[int, ...]]] = field(default_factory=dict)

    def targets(self, module: str, parameter: str) -> bool:
        """Tell whether ``target_parameters`` names a parameter of a module, in full or by the end of its name."""
        name = f".{module}.{parameter}"
        return any(name.endswith(f".{target}") for target in self.config.get("target_parameters") or ())

    def has_bare_parameters(self, module: str) -> bool:
        """Tell whether the factors of a module are those of bare parameters, as far as the configuration tells."""
        targets = self.config.get("target_modules")
        is_layer = isinstance(targets, list) and any(f".{module}".endswith(f".{target}") for target in targets)
        return len(self.factors[module]) > 1 or (bool(self.config.get("target_parameters")) and not is_layer)


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


def read_adapter(path: Path) -> Adapter:
    """Sort the tensors of a LoRA folder.

    :raises VectorError: It is not a LoRA, of a kind that is not a change of weights, pickled, or broken.
    """
    adapter = Adapter(path, read_adapter_config(path))
    check_config(path, adapter.config)
    _check_names(path, adapter_tensors(path))
    parts: dict[str, dict[str, TensorEntry]] = {}
    odd = []
    if not (tensors := adapter_tensors(path)):
        raise VectorError(f"{path / ADAPTER_WEIGHTS} does not hold any tensor", "Save the adapter again with PEFT.")
    for tensor in tensors:
        name = _NAMED.sub(r"\1", tensor.name.removeprefix(_PREFIX))
        match = _PART.fullmatch(name)
        if not tensor.is_float:
            odd.append(tensor.name)
        elif match is None:
            _add_whole(adapter, name, tensor)
        elif match["tokens"]:
            adapter.tokens[match["module"]] = tensor, _token_numbers(adapter, match["module"], tensor)
        else:
            role = match["factor"] or match["bias"] or match["magnitude"] or f"embedding {match['embedding']}"
            parts.setdefault(match["module"], {})[role] = tensor
    for name, found in parts.items():
        _add_factors(adapter, name, found, odd)
    if odd:
        raise VectorError(
            f"{len(odd)} tensors of {path / ADAPTER_WEIGHTS} are not LoRA factors: {name_some(odd)}", MERGE
        )
    _check_modules(adapter)
    return adapter


def scale_of(adapter: Adapter, module: str, rank: int) -> float:
    """Return the factor of ``b a``: lora_alpha / r, or lora_alpha / sqrt(r) for rank-stabilised LoRA.

    :param adapter: Its configuration has r and lora_alpha, for all modules or by pattern.
    :param module: The module, or the parameter where parameters are targeted.
    :param rank: That of the factors.
    :raises VectorError: The configuration says another rank, or no number.
    """
    config = adapter.config
    said = by_pattern(config.get("rank_pattern"), module, config.get("r"))
    alpha = by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    if not rank or said != rank or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise VectorError(
            f"adapter {adapter.path} says rank {said} and alpha {alpha} for {module}, but its factors have rank {rank}",
            "Save the adapter again with PEFT: configuration and weights do not belong together.",
        )
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _check_names(path: Path, tensors: tuple[TensorEntry, ...]) -> None:
    """Refuse what trainers leave in an adapter file and PEFT does not load."""
    faults = (
        ("are empty, as DeepSpeed ZeRO-3 leaves what it has not gathered", lambda one: one.shape == (0,), _GATHER),
        ("have the prefix _orig_mod., which torch.compile leaves", lambda one: "_orig_mod." in one.name, _RENAME),
        ("begin with base_model.model. twice", lambda one: one.name.startswith(2 * _PREFIX), _RENAME),
        ("do not begin with base_model.model.", lambda one: not one.name.startswith(_PREFIX), _RENAME),
    )
    for what, is_faulty, hint in faults:
        if names := [one.name for one in tensors if is_faulty(one)]:
            raise VectorError(
                f"{len(names)} tensors of {path / ADAPTER_WEIGHTS} {what}, so that PEFT does not load them: "
                f"{name_some(names)}",
                hint,
            )


def _add_whole(adapter: Adapter, name: str, tensor: TensorEntry) -> None:
    """Take a tensor without factors: a saved one, or a copy of the base's, by the name that it has in the model.

    Where PEFT saves the embeddings too, a saved module stands there three times: ``X.weight`` and
    ``X.modules_to_save.weight`` are the trained one, ``X.original_module.weight`` is that of the base.
    """
    plain = re.sub(r"\.(?:token_adapter|base_layer|modules_to_save|original_module)(?=\.)", "", name)
    is_copy = ".original_module." in name or (_WRAPPED in name and plain.endswith(".weight"))
    place = adapter.copies if is_copy else adapter.whole
    if plain in place and not has_same_values(place[plain], tensor):
        raise VectorError(
            f"{adapter.path} holds {plain} twice, with different values", "Save the adapter again with PEFT."
        )
    place[plain] = tensor


def _add_factors(adapter: Adapter, name: str, found: Mapping[str, TensorEntry], odd: list[str]) -> None:
    is_embedding = "embedding A" in found or "embedding B" in found
    keys = ("embedding A", "embedding B") if is_embedding else ("A", "B")
    if any(key not in found for key in keys) or (is_embedding and ("A" in found or "B" in found)):
        odd += [f"{tensor.name} (alone)" for tensor in found.values()]
        return
    a, b = (found[key] for key in keys)
    bias, magnitude = found.get("bias"), found.get("magnitude")
    if len(a.shape) > 2 and len(b.shape) > 2:
        raise VectorError(f"{a.name} and {b.name} in {a.path} are the factors of a convolution", MERGE)
    if len(a.shape) != 2 or len(b.shape) != 2:
        odd += [a.name, b.name]
        return
    if a.shape[0] != b.shape[1]:
        raise VectorError(
            f"the factors of {name} in {a.path} differ in rank: {a.shape[0]} and {b.shape[1]}", "Save it again."
        )
    if bool(adapter.config.get("use_dora")) != (magnitude is not None):
        raise VectorError(
            f"{adapter.path} says {'' if magnitude is None else 'no '}DoRA, but {name} has "
            f"{'no' if magnitude is None else 'a'} magnitude vector",
            "Save the adapter again with PEFT.",
        )
    if adapter.config.get("lora_bias") and bias is None:
        raise VectorError(f"{adapter.path} says lora_bias, but {name} has none", "Save the adapter again with PEFT.")
    for vector in (bias, magnitude):
        if vector is not None and math.prod(vector.shape) != b.shape[0]:
            raise VectorError(
                f"{vector.name} in {a.path} has {list(vector.shape)}, not [{b.shape[0]}]", "Save it again."
            )
    module = name.replace(_WRAPPED, "")
    pairs = adapter.factors.setdefault(module, [])
    place = sum(pair.a.name.count(_WRAPPED) < name.count(_WRAPPED) for pair in pairs)
    pairs.insert(place, Factors(module, a, b, is_embedding, bias, magnitude))


def _token_numbers(adapter: Adapter, module: str, rows: TensorEntry) -> tuple[int, ...]:
    """Return which tokens the rows of a trained embedding stand for: one list, or one for each module."""
    said = adapter.config.get("trainable_token_indices")
    if isinstance(said, Mapping):
        only = next(iter(said.values()), None) if len(said) == 1 else None  # that of the side which a tied one repeats
        said = next((value for name, value in said.items() if f".{module}".endswith(f".{name}")), only)
    numbers = tuple(said) if isinstance(said, list) and all(type(one) is int and one >= 0 for one in said) else ()
    if len(rows.shape) != 2 or len(numbers) != rows.shape[0] or len(set(numbers)) != len(numbers):
        raise VectorError(
            f"{rows.name} in {rows.path} does not have one row for each of the trainable_token_indices",
            "Save the adapter again with PEFT: configuration and weights do not belong together.",
        )
    return numbers


def _check_modules(adapter: Adapter) -> None:
    """Refuse a configuration that names what is not there."""
    for saved in adapter.config.get("modules_to_save") or ():
        if not any(f".{name}.".find(f".{saved}.") >= 0 for name in (*adapter.whole, *adapter.copies)):
            raise VectorError(
                f"{adapter.path} names '{saved}' in modules_to_save, but holds no tensor of it", "Save it again."
            )
    leaves = {str(target).rpartition(".")[2] for target in adapter.config.get("target_parameters") or ()}
    modules = [*adapter.factors, *(f"{module}.{leaf}" for module in adapter.factors for leaf in leaves)]
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in adapter.config.get(key) or {}:
            if not any(matches(pattern, module) for module in modules):
                raise VectorError(
                    f"pattern '{pattern}' in {key} of {adapter.path} fits no module that the adapter has factors of",
                    "Correct it, or take it out of adapter_config.json.",
                )
