"""How deltas are laid out as a PEFT adapter folder: what PEFT calls each part, and which part goes where.

Weights of linear layers and embeddings get factors under their module's name (``target_modules``); the experts of a
fused parameter, and layers that PEFT takes for something else, under the parameter's (``target_parameters``). Biases
are saved as they are (``bias``), other small modules whole (``modules_to_save``). The layout is tried with PEFT on the
model without weights: what PEFT would lose is laid out in another way, and what it cannot hold is left to a task vector
file beside the adapter. A tied embedding is saved whole under both of its names: PEFT 0.21 fails to load one of them
alone (a KeyError for the head), and factors for it, which run right with ``ensure_weight_tying``, are added twice to
the shared weight by ``merge_and_unload``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from taskarith.architecture.layout import Architecture, Parameter
from taskarith.checkpoints.checkpoint import Checkpoint

__all__ = ["FolderLayout", "factor_shapes", "first_layout", "takes_factors"]

_PREFIX = "base_model.model."


def takes_factors(architecture: Architecture, parameter: str, tied: Collection[str] = ()) -> bool:
    """Tell whether a parameter is a matrix, or has one for each expert, that low-rank factors can stand for.

    :param tied: Parameters that share their memory with others; they get none.
    """
    one = architecture.parameters[parameter]
    is_layer = _is_module(one) and parameter.endswith(".weight")
    is_stack = one.kind == "other" and len(one.shape) == 3 and one.shape[0] > 1 and bool(architecture.model_class)
    return (is_layer or is_stack) and parameter not in tied


def _is_module(parameter: Parameter) -> bool:
    """Tell whether PEFT adapts the module that a parameter belongs to; routers and experts it has to be told of."""
    return parameter.kind in {"linear", "embedding"} and len(parameter.shape) == 2


def factor_shapes(architecture: Architecture, parameter: str, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the shapes of A and B."""
    one = architecture.parameters[parameter]
    *many, rows, columns = one.shape
    is_turned = one.is_transposed or one.kind == "embedding"
    outputs, inputs = (columns, rows) if is_turned else (rows, columns)
    whole = math.prod(many) * rank
    return (whole, inputs), (outputs, whole)


@dataclass(frozen=True)
class FolderLayout:
    """Where everything goes.

    :param architecture: Of the base.
    :param ranks: Rank of each parameter that has factors.
    :param bare: Those that are targeted as parameters, not as modules.
    :param saved: Modules that PEFT replaces, each with the parameters that the adapter file has as they are.
    :param biases: Biases of modules that are not replaced.
    :param rest: Stored tensors that go to a task vector file.
    :param tied: The two names of a tied embedding that is saved whole; empty if none is.
    """

    architecture: Architecture
    ranks: Mapping[str, int]
    bare: frozenset[str] = frozenset()
    saved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    biases: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()

    def factor_names(self, parameter: str) -> tuple[str, str]:
        """Return the names of A and B in the adapter file; PEFT wraps the parameter registered last outermost."""
        module, _, leaf = parameter.rpartition(".")
        if parameter not in self.bare:
            is_embedding = self.architecture.parameters[parameter].kind == "embedding"
            stem = f"{_PREFIX}{module}.lora_"
            a, b = (f"{stem}embedding_{x}" if is_embedding else f"{stem}{x}.weight" for x in "AB")
            return a, b
        leaves = self.architecture.modules[module]
        depth = sum(f"{module}.{other}" in self.bare for other in leaves[leaves.index(leaf) + 1 :])
        stem = f"{_PREFIX}{module}{'.base_layer' * depth}.lora_"
        return f"{stem}A.weight", f"{stem}B.weight"

    def whole_names(self) -> Iterator[tuple[str, str]]:
        """Give out the parameters that are saved as they are, each with its name in the adapter file."""
        for parameters in self.saved.values():
            yield from ((f"{_PREFIX}{parameter}", parameter) for parameter in parameters)
        yield from ((f"{_PREFIX}{parameter}", self.tied[0]) for parameter in self.tied)
        for parameter in self.biases:
            module, _, leaf = parameter.rpartition(".")
            is_wrapped = f"{module}.weight" in self.ranks
            yield f"{_PREFIX}{module}{'.base_layer' if is_wrapped else ''}.{leaf}", parameter

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of all tensors of the adapter file."""
        found: dict[str, tuple[int, ...]] = {}
        for parameter, rank in self.ranks.items():
            pairs = zip(self.factor_names(parameter), factor_shapes(self.architecture, parameter, rank), strict=True)
            found |= dict(pairs)
        parameters = self.architecture.parameters
        return found | {name: parameters[parameter].shape for name, parameter in self.whole_names()}

    def config(self, name: str, revision: str | None) -> dict[str, Any]:
        """Return PEFT's configuration; every scale in it is one.

        :param name: How the base is to be recorded.
        :param revision: Of a hub model.
        """
        ranks = [self.ranks[one] for one in self.bare] or list(self.ranks.values())
        largest = max(ranks, default=1)
        patterns = {re.escape(self._key(one)): rank for one, rank in self.ranks.items() if rank != largest}
        parameters = self.architecture.parameters
        tasks = {"AutoModelForCausalLM": "CAUSAL_LM", "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM", "": "CAUSAL_LM"}
        return {
            "peft_type": "LORA",
            "task_type": tasks.get(self.architecture.auto_class),
            "base_model_name_or_path": name,
            "revision": revision,
            "inference_mode": True,
            "r": largest,
            "lora_alpha": largest,
            "lora_dropout": 0.0,
            "rank_pattern": patterns,
            "alpha_pattern": patterns,
            "target_modules": self._target_modules(),
            "target_parameters": sorted(self.bare) or None,
            "modules_to_save": [*self.saved, *(one.rpartition(".")[0] for one in self.tied)] or None,
            "ensure_weight_tying": bool(self.tied),
            "bias": "all" if self.biases else "none",
            "fan_in_fan_out": any(
                parameters[one].is_transposed is True for one in self.ranks if parameters[one].kind == "linear"
            ),
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
        }

    def _key(self, parameter: str) -> str:
        return parameter if parameter in self.bare else parameter.rpartition(".")[0]

    def _target_modules(self) -> list[str]:
        """Name the targeted modules by the last part of their names where that means no others, else in full."""
        targeted = {parameter.rpartition(".")[0] for parameter in self.ranks if parameter not in self.bare}
        alike: dict[str, set[str]] = {}
        for module in self.architecture.modules:
            parts = module.split(".")
            for stop in range(1, len(parts) + 1):
                alike.setdefault(parts[stop - 1], set()).add(".".join(parts[:stop]))
        found = set()
        for module in targeted:
            leaf = module.rpartition(".")[2]
            found.add(leaf if alike[leaf] <= targeted and not leaf.isdigit() else module)
        return sorted(found)

    def levelled(self) -> FolderLayout:
        """Return the layout with one rank for all bare parameters: PEFT warns that it ignores patterns for them."""
        most = max((self.ranks[one] for one in self.bare), default=0)
        return replace(self, ranks={one: most if one in self.bare else rank for one, rank in self.ranks.items()})

    def only(self, parameters: Collection[str]) -> FolderLayout:
        """Return the layout of some of the parameters."""
        return replace(
            self,
            ranks={one: rank for one, rank in self.ranks.items() if one in parameters},
            bare=self.bare & {*parameters},
            saved={module: held for module, held in self.saved.items() if {*held} <= {*parameters}},
            biases=tuple(one for one in self.biases if one in parameters),
            tied=self.tied if {*self.tied} <= {*parameters} else (),
        )

    def without(self, parameter: str, base: Checkpoint) -> FolderLayout:
        """Return the layout with another place for a parameter that PEFT would lose here: the next one it may have."""
        architecture, module = self.architecture, parameter.rpartition(".")[0]
        if (
            parameter in self.ranks
            and parameter not in self.bare
            and architecture.parameters[parameter].kind == "linear"
        ):
            return replace(self, bare=self.bare | {parameter})
        lost = {parameter}
        if parameter in self.tied:
            lost |= {*self.tied}
        elif parameter not in self.ranks and parameter not in self.biases:
            lost |= {*self.saved.get(module, ())}
        everything = {*self.ranks, *self.biases, *self.tied, *(one for held in self.saved.values() for one in held)}
        tensors = {tensor for one in lost for tensor in architecture.holders.get(one, ())} | {*self.rest}
        return replace(self.only(everything - lost), rest=tuple(name for name in base.tensors if name in tensors))


def first_layout(
    architecture: Architecture,
    base: Checkpoint,
    moved: Collection[str],
    ranks: Mapping[str, int],
    tied: Mapping[str, tuple[str, ...]],
) -> FolderLayout:
    """Lay out everything as PEFT's conventions have it.

    :param architecture: Of the base.
    :param base: The base.
    :param moved: Stored tensors whose delta is not zero.
    :param ranks: Rank of each parameter that has factors.
    :param tied: For each stored tensor that others are tied to, those others.
    """
    bare = frozenset(one for one in ranks if not _is_module(architecture.parameters[one]))
    saved: dict[str, tuple[str, ...]] = {}
    biases, rest, both = [], [], ()
    factored = {tensor for one in ranks for tensor in architecture.holders.get(one, ())}
    for tensor in base.tensors:
        if tensor not in moved or tensor in factored:
            continue
        parameter = architecture.parameter_of(tensor)
        module, _, leaf = (parameter or "").rpartition(".")
        if tensor in tied:
            both = both or _both_names(architecture, parameter)
            rest += [] if both else [tensor]
        elif any(tensor in others for others in tied.values()):
            continue  # goes with the one that it is tied to
        elif module in saved:
            continue
        elif parameter is not None and leaf == "bias" and _is_layer(architecture, module, moved, factored):
            biases.append(parameter)
        elif parameter is not None and _can_be_saved(architecture, base, module, factored):
            saved[module] = tuple(f"{module}.{one}" for one in architecture.modules[module])
        else:
            rest.append(tensor)
    return FolderLayout(architecture, ranks, bare, saved, tuple(biases), tuple(rest), both)


def _both_names(architecture: Architecture, parameter: str | None) -> tuple[str, ...]:
    """Return the two parameters of a tied embedding; empty where it is something else that is tied."""
    names = tuple(architecture.roles.get(role, "") for role in ("embedding", "head"))
    is_alone = all(
        len(architecture.modules.get(name.rpartition(".")[0], ())) == 1 for name in names
    )  # PEFT drops a bias
    return names if parameter in names and is_alone and set(architecture.ties) <= set(names) else ()


def _is_layer(architecture: Architecture, module: str, moved: Collection[str], factored: Collection[str]) -> bool:
    """Tell whether a bias stands beside a weight that has factors, or that does not move."""
    weight = architecture.tensor_of(f"{module}.weight")
    kind = architecture.parameters.get(f"{module}.weight")
    return kind is not None and kind.kind == "linear" and (weight in factored or weight not in moved)


def _can_be_saved(architecture: Architecture, base: Checkpoint, module: str, factored: Collection[str]) -> bool:
    """Tell whether PEFT can save a module: nothing is below it, and all that it has are floats, stored as they are."""
    if not module or any(other.startswith(f"{module}.") for other in architecture.modules):
        return False
    tensors = [architecture.tensor_of(f"{module}.{leaf}") for leaf in architecture.modules[module]]
    held = [architecture.parameters[f"{module}.{leaf}"] for leaf in architecture.modules[module]]
    is_small = all(one.kind == "convolution" or len(one.shape) < 3 for one in held)
    return is_small and all(one is not None and one not in factored and base.tensors[one].is_float for one in tensors)
