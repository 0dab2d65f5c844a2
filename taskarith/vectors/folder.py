"""How a fine-tune's deltas are laid out as a PEFT adapter folder: names, and which tensor goes where.

Only names, shapes and the configuration are looked at, never modules: weights of two dimensions get factors; biases
beside them are saved as they are (``bias``), other modules whole (``modules_to_save``). What PEFT has no name for
(experts, bare parameters) is left to a task vector file. A tied embedding is saved whole under both of its names:
PEFT 0.21 fails to load one of them alone (a KeyError for the head), and factors for it, which run right with
``ensure_weight_tying``, are added twice to the shared weight by ``merge_and_unload``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.vectors.ties import EMBEDDING, HEAD, is_tied, only

__all__ = ["FolderLayout", "Naming", "adapter_config", "lay_out"]

_PREFIX = "base_model.model."
_EMBEDDINGS = {"embed_tokens", "wte", "wpe", "embed_in", "word_embeddings", "embed_positions"}
_ROUTERS = {"gate", "router"}
_TRANSPOSING = {"gpt2", "openai-gpt"}
"""Model types whose layers (Conv1D) store their weight as in x out."""


class Naming:
    """What the tensors of a checkpoint are called in memory, and what can be done with them.

    :param base: The checkpoint.
    """

    def __init__(self, base: Checkpoint) -> None:
        self._base = base
        self._prefix = _missing_prefix(base)
        embedding, head = only(base.tensors, EMBEDDING), only(base.tensors, HEAD)
        tied = embedding is not None and is_tied(base, embedding, head)
        self.tied = tuple(name for name in (embedding, head) if name is not None) if tied else ()
        self.is_transposing = base.config.get("model_type") in _TRANSPOSING

    def module(self, tensor: str) -> str:
        """Return the module of a tensor, as PEFT calls it."""
        return self._memory(tensor).rpartition(".")[0]

    def is_embedding(self, tensor: str) -> bool:
        """Tell whether it is the weight of an embedding, whose factors PEFT calls otherwise."""
        return self.module(tensor).rpartition(".")[2] in _EMBEDDINGS

    def has_module(self, tensor: str) -> bool:
        """Tell whether PEFT can save its module, which then has nothing but a weight and a bias."""
        module = tensor.rpartition(".")[0]
        leaves = {name.removeprefix(f"{module}.") for name in self._base.tensors if name.startswith(f"{module}.")}
        return leaves <= {"weight", "bias"} and ".experts." not in tensor

    def takes_factors(self, tensor: str) -> bool:
        """Tell whether PEFT can target it: the weight of a linear layer or of an embedding of its own."""
        is_matrix = len(self._base.tensors[tensor].shape) == 2 and tensor.endswith(".weight")
        is_layer = self.module(tensor).rpartition(".")[2] not in _ROUTERS
        return is_matrix and is_layer and tensor not in self.tied and self.has_module(tensor)

    def head(self) -> str:
        """Return what the tied head is called, whether it is stored or not."""
        stored = [name for name in self.tied if HEAD.fullmatch(name)]
        return stored[0] if stored else "embed_out.weight" if "embed_in" in self.tied[0] else "lm_head.weight"

    def factor_names(self, tensor: str) -> tuple[str, str]:
        """Return the names of A and B in the adapter file."""
        stem = f"{_PREFIX}{self.module(tensor)}.lora_"
        return tuple(f"{stem}embedding_{x}" if self.is_embedding(tensor) else f"{stem}{x}.weight" for x in "AB")  # ty: ignore

    def whole_name(self, tensor: str, is_wrapped: bool = False) -> str:
        """Return the name of a tensor that is saved as it is, beside factors or not."""
        module, _, leaf = self._memory(tensor).rpartition(".")
        return f"{_PREFIX}{module}{'.base_layer' if is_wrapped else ''}.{leaf}"

    def is_transposed(self, tensor: str) -> bool:
        """Tell whether the stored weight is the transpose of ``B A``."""
        return self.is_embedding(tensor) or (self.is_transposing and not HEAD.fullmatch(tensor))

    def _memory(self, tensor: str) -> str:
        return tensor if HEAD.fullmatch(tensor) else f"{self._prefix}{tensor}"


@dataclass
class FolderLayout:
    """Where the moved tensors go.

    :param whole: Tensors of the fine-tune that the adapter file has as they are, by their names there.
    :param saved: Modules that PEFT replaces.
    :param has_biases: Whether some of ``whole`` are biases of modules that are not replaced.
    :param ties: Whether a tied embedding is among them.
    :param rest: Tensors that go to a task vector file.
    """

    whole: dict[str, str] = field(default_factory=dict)
    saved: list[str] = field(default_factory=list)
    has_biases: bool = False
    ties: bool = False
    rest: list[str] = field(default_factory=list)


def lay_out(naming: Naming, base: Checkpoint, moved: Collection[str], factored: Collection[str]) -> FolderLayout:
    """Decide where the tensors go that have no factors.

    :param naming: Of the base.
    :param base: The base.
    :param moved: Tensors whose delta is not zero.
    :param factored: Those of them that have factors.
    """
    layout = FolderLayout()
    groups: dict[str, list[str]] = defaultdict(list)
    for name in base.tensors:
        if name in moved and name not in factored:
            groups[name.rpartition(".")[0]].append(name)
    for stem, names in groups.items():
        weight, bias = f"{stem}.weight", f"{stem}.bias"
        if names[0] in naming.tied:
            if not layout.ties:
                layout.ties = True
                layout.saved += [naming.module(one) for one in (naming.tied[0], naming.head())]
                layout.whole |= {naming.whole_name(one): naming.tied[0] for one in (naming.tied[0], naming.head())}
        elif not naming.has_module(names[0]):
            layout.rest += names
        elif weight in names:
            layout.saved.append(naming.module(weight))
            layout.whole |= {naming.whole_name(one): one for one in (weight, bias) if one in base.tensors}
        else:
            layout.has_biases = True
            layout.whole[naming.whole_name(bias, weight in factored)] = bias
    return layout


def adapter_config(
    naming: Naming, base: Checkpoint, name: str, revision: str | None, ranks: Mapping[str, int], layout: FolderLayout
) -> dict[str, Any]:
    """Return PEFT's configuration; every scale in it is one.

    :param naming: Of the base.
    :param base: The base.
    :param name: How the base is to be recorded.
    :param revision: Of a hub model.
    :param ranks: Rank of each tensor that has factors.
    :param layout: Where the others go.
    """
    largest = max(ranks.values(), default=1)
    patterns = {re.escape(naming.module(tensor)): rank for tensor, rank in ranks.items() if rank != largest}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": revision,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "lora_dropout": 0.0,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": _targets(naming, base, ranks),
        "modules_to_save": layout.saved or None,
        "ensure_weight_tying": layout.ties,
        "bias": "all" if layout.has_biases else "none",
        "fan_in_fan_out": naming.is_transposing,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }


def _targets(naming: Naming, base: Checkpoint, ranks: Mapping[str, int]) -> list[str]:
    """Name the targeted modules by the last part of their names where that means no others, else in full."""
    alike: dict[str, list[str]] = defaultdict(list)
    for tensor in base.tensors:
        if len(base.tensors[tensor].shape) >= 2:
            alike[naming.module(tensor).rpartition(".")[2]].append(tensor)
    targets = set()
    for tensor in ranks:
        module = naming.module(tensor)
        leaf = module.rpartition(".")[2]
        targets.add(leaf if all(other in ranks for other in alike[leaf]) else module)
    return sorted(targets)


def _missing_prefix(base: Checkpoint) -> str:
    """Return the model's own prefix where the files lack it, as GPT-2's on the hub do."""
    stems = {name.rpartition(".")[0] for name in base.tensors}
    firsts = {stem.partition(".")[0] for stem in stems if not HEAD.fullmatch(f"{stem}.weight")}
    if len(firsts) <= 1:  # all under one name, which is the prefix
        return ""
    import transformers  # late: a heavy import

    for name in base.config.get("architectures") or ():
        prefix = getattr(getattr(transformers, str(name), None), "base_model_prefix", "")
        is_whole = "For" in str(name) or "Head" in str(name)  # not the bare model, whose names have no prefix
        if prefix and is_whole and not any(tensor.startswith(f"{prefix}.") for tensor in base.tensors):
            return f"{prefix}."
    return ""
