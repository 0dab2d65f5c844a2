"""Which stored tensor each part of an adapter moves: names without prefix, tied heads, experts stored one by one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from taskarith.arithmetic.parallel import chunks
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import MismatchError, VectorError
from taskarith.vectors.lora import Adapter, Factors, scale_of
from taskarith.vectors.parts import Bias, Dora, Part, Product, Rows, Saved, load_values
from taskarith.vectors.ties import EMBEDDING, HEAD, is_tied, only

__all__ = ["place_adapter"]

_FUSED = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
"""Parameters of all experts that transformers 5 makes of weights that are stored one by one, and their names there."""


def place_adapter(adapter: Adapter, base: Checkpoint, origin: Checkpoint) -> tuple[dict[str, Part], dict[str, str]]:
    """Find what the adapter does to each tensor of a checkpoint.

    A tied embedding takes the delta of whichever side is targeted, as PEFT's merge does; both sides may say the same.
    What would untie the two is refused.

    :param adapter: The sorted folder.
    :param base: The checkpoint to be edited.
    :param origin: The checkpoint that the adapter was trained on.
    :returns: The parts by tensor, and the tensors that repeat another one and take its delta.
    :raises VectorError: Two parts claim one tensor, or one cannot be expressed.
    :raises MismatchError: A copy of a base weight in the adapter is not that of the base.
    """
    placing = _Placing(adapter, base, origin)
    for factors in adapter.factors.values():
        placing.add_factors(factors)
    for module, pairs in adapter.wrapped.items():
        placing.add_parameters(module, pairs)
    for name, entry in adapter.whole.items():
        placing.add(name, Saved(entry, placing.trained_on(name, entry)))
    for module, (entry, numbers) in adapter.tokens.items():
        name = f"{module}.weight"
        placing.add(name, Rows(entry, numbers, placing.trained_on(name, entry)))
    _check_copies(adapter, origin)
    return placing.settle()


class _Placing:
    def __init__(self, adapter: Adapter, base: Checkpoint, origin: Checkpoint) -> None:
        self._adapter, self._base, self._origin = adapter, base, origin
        self._parts: dict[str, Part] = {}

    def add(self, name: str, part: Part) -> None:
        """Take a part for a tensor that is known by the name that it has in memory."""
        stored = _stored_name(name, self._base)
        if stored in self._parts:
            raise VectorError(
                f"{self._adapter.path} says two things of {stored}",
                "Merge it with PEFT and use the merged model folder.",
            )
        self._parts[stored] = part

    def trained_on(self, name: str, entry: TensorEntry) -> TensorEntry:
        """Return the tensor that a saved one, or factors with DoRA, belong to; a wrong base is found later."""
        found = self._origin.tensors.get(_stored_name(name, self._origin), entry)
        if not found.is_float:
            raise VectorError(
                f"{self._adapter.path} changes {name}, which its base stores as {found.dtype}, by more than factors",
                "Apply it to the model before quantisation.",
            )
        return found

    def add_factors(self, factors: Factors) -> None:
        """Take the factors of one weight."""
        scale = scale_of(self._adapter, factors.module, factors.a.shape[0])
        name = f"{factors.module}.weight"
        product = Product(factors.a, factors.b, scale, self._is_transposed(name, factors))
        if factors.magnitude is None:
            self.add(name, product)
        else:
            self.add(name, Dora(product, factors.magnitude, self.trained_on(name, factors.a)))
        if factors.bias is not None:
            self.add(f"{factors.module}.bias", Bias(factors.bias, scale))

    def add_parameters(self, module: str, pairs: list[Factors]) -> None:
        """Take the factors of a module's bare parameters; their shapes tell which pair belongs to which."""
        names = self._adapter.parameters(module)
        fits = [
            found
            for order in (permutations(names) if len(names) == len(pairs) else ())
            if len(
                found := [parts for pair, name in zip(pairs, order, strict=True) if (parts := self._fit(pair, name))]
            )
            == len(names)
        ]
        if len(fits) != 1:
            raise VectorError(
                f"the factors of {module} in {self._adapter.path} cannot be told to belong to its parameters "
                f"({', '.join(names) or 'target_parameters names none'}) in {self._base.path}",
                "Apply it to the model it was trained on, or merge it with PEFT and use the merged model folder.",
            )
        for parts in fits[0]:
            for name, part in parts.items():
                self.add(name, part)

    def _fit(self, pair: Factors, parameter: str) -> dict[str, Part]:
        """Return the parts by tensor if a pair of factors has the shapes of a parameter; else nothing."""
        name = f"{pair.module}.{parameter}"
        entry = self._base.tensors.get(_stored_name(name, self._base))
        if entry is not None:
            experts = entry.shape[0] if len(entry.shape) == 3 else 1
            if experts == 0 or pair.a.shape[0] % experts:
                return {}
            scale = scale_of(self._adapter, name, pair.a.shape[0] // experts)
            both = [
                Product(pair.a, pair.b, scale, turned, experts) for turned in ((False, True)[: len(entry.shape) - 1])
            ]
            parts = [part for part in both if part.shape == entry.shape]
            return {name: parts[0]} if len(parts) == 1 else {}
        for stem, weights in self._stored_apart(pair.module, parameter):
            experts, shapes = len(weights), [self._base.tensors[weight].shape for weight in weights[0]]
            sizes = [shape[0] for shape in shapes]
            is_fitting = sum(sizes) == pair.b.shape[0] and all(shape[1:] == pair.a.shape[1:] for shape in shapes)
            if is_fitting and pair.a.shape[0] % experts == 0:
                scale = scale_of(self._adapter, f"{stem}.{parameter}", pair.a.shape[0] // experts)
                return {
                    weight: Product(pair.a, pair.b, scale, False, experts, expert, (start, start + size))
                    for expert, group in enumerate(weights)
                    for weight, size, start in zip(group, sizes, (0, *sizes), strict=False)
                }
        return {}

    def _stored_apart(self, module: str, parameter: str) -> Iterator[tuple[str, list[list[str]]]]:
        """Find a parameter of all experts whose parts are stored expert by expert."""
        for place in (module, module.replace(".mlp.experts", ".block_sparse_moe.experts")):
            for parts in _FUSED.get(parameter, ()):
                weights: list[list[str]] = []
                while (group := [f"{place}.{len(weights)}.{part}.weight" for part in parts])[0] in self._base.tensors:
                    weights.append(group)
                if weights and all(weight in self._base.tensors for group in weights for weight in group):
                    yield module, weights
                    return

    def _is_transposed(self, name: str, factors: Factors) -> bool:
        """Tell by the base's shape, and for a square weight by the configuration."""
        stored = self._base.tensors.get(_stored_name(name, self._base))
        if factors.is_embedding:
            return True
        if factors.a.shape[1] == factors.b.shape[0] or stored is None:
            return bool(self._adapter.config.get("fan_in_fan_out"))
        return stored.shape == (factors.a.shape[1], factors.b.shape[0])

    def settle(self) -> tuple[dict[str, Part], dict[str, str]]:
        """Let a tied embedding and head have one delta."""
        parts, embedding = self._parts, only(self._base.tensors, EMBEDDING)
        claimed = next((name for name in parts if HEAD.fullmatch(name)), None)
        head = claimed or only(self._base.tensors, HEAD)
        is_moved = claimed is not None or embedding in parts
        if embedding is None or not is_moved or not is_tied(self._base, embedding, head):
            return parts, {}
        sides = [parts[name] for name in (embedding, claimed) if name in parts]
        if any(isinstance(side, Saved) for side in sides) and not _is_same(sides):
            raise VectorError(
                f"{self._adapter.path} saves {claimed or embedding} as a module of its own (modules_to_save), "
                f"but {self._base.path} has it tied to {embedding if claimed else 'its head'}",
                "Untie the model first: save it with tie_word_embeddings=False and both tensors.",
            )
        if len(sides) == 2 and not _is_same(sides):
            raise VectorError(
                f"{self._adapter.path} says different things of {embedding} and {claimed}, which are tied",
                "Untie the model first: save it with tie_word_embeddings=False and both tensors.",
            )
        parts = {name: part for name, part in parts.items() if name != claimed} | {embedding: sides[0]}
        return parts, {head: embedding} if head is not None and head in self._base.tensors else {}


def _is_same(sides: list[Part]) -> bool:
    """Tell whether both sides say the same: the same tensor, or each other's factors transposed (weight tying)."""
    if len(sides) != 2:
        return False
    first, second = sides
    if isinstance(first, Saved) and isinstance(second, Saved):
        with TensorReader() as reader:
            return reader.fingerprint(first.entry) == reader.fingerprint(second.entry)
    if not isinstance(first, Product) or not isinstance(second, Product) or first.shape != second.shape:
        return False
    (one, _), (other, _) = first.low_rank(load_values), second.low_rank(load_values)
    pairs = ((one.left, other.left), (one.right, other.right))
    return one.scale == other.scale and all(a.shape == b.shape and bool((a == b).all()) for a, b in pairs)


def _check_copies(adapter: Adapter, origin: Checkpoint) -> None:
    """PEFT saves the weight of a targeted embedding too, and loads it again: it must be what the base has."""
    for name, copy in adapter.copies.items():
        entry = origin.tensors.get(_stored_name(name, origin)) or _tied_embedding(origin, name)
        if entry is None or entry.shape != copy.shape or not entry.is_float or not _has_same_values(entry, copy):
            raise MismatchError(
                f"{adapter.path} holds a copy of {name}, which is not that of {origin.path}",
                "Apply it to the model it was trained on; where that was enlarged or changed, merge it with PEFT.",
            )


def _has_same_values(first: TensorEntry, second: TensorEntry) -> bool:
    from taskarith.arithmetic.wide import decode

    with TensorReader() as reader:
        for start, stop in chunks(first.elements):
            sides = []
            for entry in (first, second):
                size = ITEM_SIZES[entry.dtype]
                sides.append(decode(reader.read(entry, start * size, stop * size), entry.dtype))
            if not (sides[0] == sides[1]).all():
                return False
    return True


def _tied_embedding(base: Checkpoint, name: str) -> TensorEntry | None:
    embedding = only(base.tensors, EMBEDDING)
    return base.tensors[embedding] if embedding is not None and HEAD.fullmatch(name) else None


def _stored_name(name: str, base: Checkpoint) -> str:
    """Return the name that a tensor has in the files, which may lack the model's own prefix, as GPT-2's do."""
    short = name.partition(".")[2]
    return short if name not in base.tensors and short in base.tensors else name
