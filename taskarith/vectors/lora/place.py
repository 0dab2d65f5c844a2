"""Which stored tensor each part of an adapter moves: the adapter names modules in memory, the files tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from taskarith.architecture.layout import Architecture, Parameter, Piece
from taskarith.architecture.lookup import architectures_of
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import TensorEntry
from taskarith.errors import MismatchError, VectorError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.vectors.copies import has_same_rows, has_same_values
from taskarith.vectors.lora.config import MERGE
from taskarith.vectors.lora.parts import Bias, Dora, Part, Product, Rows, Saved, Stack
from taskarith.vectors.lora.read import Adapter, Factors, scale_of
from taskarith.vectors.lora.tied import settle_ties

__all__ = ["Placement", "place_adapter"]


@dataclass(frozen=True)
class Placement:
    """What an adapter does to a model's files.

    :param parts: By stored tensor.
    :param tied: Tensors that repeat another one and take its delta.
    :param products: The factors, by parameter in memory.
    :param architecture: What the adapter's names were understood by.
    :param remarks: What the user should know.
    """

    parts: dict[str, Part]
    tied: dict[str, str]
    products: dict[str, Product]
    architecture: Architecture
    remarks: tuple[str, ...] = ()


def place_adapter(adapter: Adapter, base: Checkpoint, origin: Checkpoint, listener: Listener = SILENT) -> Placement:
    """Find what the adapter does to each tensor of a checkpoint.

    A tied embedding takes the delta of whichever side is targeted, as PEFT's merge does; both sides may say the same.
    What would untie the two is refused.

    :param adapter: The sorted folder.
    :param base: The checkpoint to be edited.
    :param origin: The checkpoint that the adapter was trained on.
    :param listener: Receives a note where that takes some seconds.
    :raises VectorError: Two parts claim one tensor, or one cannot be expressed.
    :raises MismatchError: It targets what the model does not have, or a copy of a base weight is not that of the base.
    """
    architecture = _architecture(adapter, base, listener)
    placing = _Placing(adapter, architecture, base, origin)
    for module, pairs in adapter.factors.items():
        placing.add_pairs(module, pairs)
    for name, entry in adapter.whole.items():
        placing.add(placing.tensor(name), Saved(entry, placing.trained_on(name, entry)))
    for module, (entry, numbers) in adapter.tokens.items():
        name = f"{module}.weight"
        trained_on = placing.trained_on(name, entry, least=max(numbers, default=0) + 1)
        placing.add(placing.tensor(name), Rows(entry, numbers, trained_on))
    for name, entry in adapter.copies.items():
        placing.check_copy(name, entry)
    return placing.settle()


def _architecture(adapter: Adapter, base: Checkpoint, listener: Listener) -> Architecture:
    """Return the first architecture that knows all modules of the adapter, by their names in memory or in files."""
    names = [*adapter.factors, *adapter.whole, *adapter.copies, *(f"{module}.weight" for module in adapter.tokens)]
    tried: list[tuple[list[str], Architecture]] = []
    for architecture in architectures_of(base, listener):
        absent = [name for name in names if not architecture.spelled(name)]
        if not absent:
            return architecture
        tried.append((absent, architecture))
    absent, architecture = min(tried, key=lambda one: len(one[0]))
    what = f"{architecture.model_class} of {base.path}" if architecture.model_class else str(base.path)
    raise MismatchError(
        f"{len(absent)} targets of adapter {adapter.path} are not in {what}: {name_some(absent)}",
        "Apply it to the model it was trained on, or to one of that architecture.",
    )


class _Placing:
    def __init__(self, adapter: Adapter, architecture: Architecture, base: Checkpoint, origin: Checkpoint) -> None:
        self._adapter, self._architecture, self._base, self._origin = adapter, architecture, base, origin
        self._parts: dict[str, Part] = {}
        self._products: dict[str, Product] = {}
        self._wrong: list[str] = []
        self._remarks = [architecture.remark] if architecture.remark else []

    def add(self, stored: str, part: Part) -> None:
        """Take a part for a stored tensor."""
        if stored in self._parts:
            raise VectorError(f"{self._adapter.path} says two different things of {stored}", MERGE)
        self._parts[stored] = part

    def tensor(self, name: str) -> str:
        """Return the stored tensor that is a parameter as a whole, or the name of one that is tied and not stored."""
        architecture = self._architecture
        spelled = architecture.spelled(name)
        found = architecture.tensor_of(spelled)
        if found is None and (spelled in architecture.stored or spelled in architecture.ties):
            return spelled  # an older adapter has the names of the files
        if found is None:
            holders = architecture.holders.get(spelled, ())
            raise VectorError(
                f"{self._adapter.path} changes {name}, which {self._base.path} "
                + (f"stores in parts ({name_some(holders, 3)})" if holders else "does not store"),
                MERGE,
            )
        return found

    def check_copy(self, name: str, copy: TensorEntry) -> None:
        """PEFT saves the weight of a targeted embedding too, and loads it again: it must be what the base has."""
        if not has_same_values(self.trained_on(name, copy), copy):
            raise MismatchError(
                f"{self._adapter.path} holds a copy of {name}, which is not that of {self._origin.path}",
                "Apply it to the model it was trained on; where that was enlarged or changed, merge it with PEFT.",
            )

    def trained_on(self, name: str, entry: TensorEntry, least: int = 0) -> TensorEntry:
        """Return the tensor that a saved one, or factors with DoRA, belong to.

        It is that of the adapter's own base; of the model at hand, where that is this base with a larger vocabulary.

        :param least: The rows that it must have where ``entry`` is some rows of it; 0 where it is a whole.
        """
        stored = self.tensor(name)
        if stored not in self._base.tensors and (other := self._architecture.ties.get(stored)):
            stored = self.tensor(other)
        found, here = self._origin.tensors.get(stored), self._base.tensors.get(stored)
        if found is None:
            raise MismatchError(
                f"{self._adapter.path} changes {name}, which its base {self._origin.path} does not store",
                "Name the base that it was trained on, or merge it with PEFT.",
            )
        if not found.is_float:
            raise VectorError(
                f"{self._adapter.path} changes {name}, which its base stores as {found.dtype}, by more than factors",
                "Apply it to the model before quantisation.",
            )
        rows = least or (entry.shape[0] if entry.shape else 0)
        is_enough = found.shape == entry.shape or not (found.shape and entry.shape) or found.shape[0] >= rows
        if is_enough or here is None or (here.shape[0] < rows if least else here.shape != entry.shape):
            return found
        if found.shape[1:] != here.shape[1:] or not has_same_rows(found, here):
            raise MismatchError(
                f"{self._adapter.path} needs {rows} rows of {name}, its base {self._origin.path} has "
                f"{found.shape[0]}, and the first ones of {self._base.path} are not the same",
                "Enlarge the base's vocabulary as it was for training, save it, and apply the adapter to that.",
            )
        return here  # the base with more rows: the adapter was trained after the vocabulary had been enlarged

    def add_pairs(self, module: str, pairs: list[Factors]) -> None:
        """Take the factors of a module: of its weight, or of the parameters that ``target_parameters`` names."""
        spelled = self._architecture.spelled(module)
        leaves = self._architecture.modules.get(spelled, ())
        names = [leaf for leaf in leaves if self._adapter.targets(module, leaf)]
        if names:
            self._add_parameters(module, spelled, names, pairs)
        elif leaves and "weight" not in leaves:
            raise VectorError(
                f"{self._adapter.path} has factors of {module}, which does not have one weight but {name_some(leaves)}",
                MERGE,
            )
        elif len(pairs) == 1:
            self._add_weight(pairs[0])
        else:
            raise VectorError(
                f"{self._adapter.path} has {len(pairs)} pairs of factors for {module}, and target_parameters names "
                "none of its parameters",
                "Save the adapter again with PEFT: configuration and weights do not belong together.",
            )

    def _add_weight(self, factors: Factors) -> None:
        scale = scale_of(self._adapter, factors.module, factors.a.shape[0])
        name = f"{factors.module}.weight"
        spelled = self._architecture.spelled(name)
        parameter = self._architecture.parameters.get(spelled)
        if parameter is None:
            stored = self.tensor(name)
            shape = self._base.tensors[stored].shape if stored in self._base.tensors else ()
            parameter = Parameter(shape, "other")
        turned = factors.is_embedding or parameter.is_transposed
        turned = self._by_shape(factors, parameter.shape) if turned is None else turned
        product = Product(factors.a, factors.b, scale, turned)
        self._check_shape(name, product, parameter)
        self._add_product(spelled, product, factors)
        if factors.bias is not None:
            self.add(self.tensor(f"{factors.module}.bias"), Bias(factors.bias, scale))

    def _by_shape(self, factors: Factors, shape: tuple[int, ...]) -> bool:
        """Tell by the shape whether a weight is in x out, and by the configuration where it is square."""
        if factors.a.shape[1] == factors.b.shape[0]:
            return bool(self._adapter.config.get("fan_in_fan_out"))
        return shape == (factors.a.shape[1], factors.b.shape[0])

    def _check_shape(self, name: str, product: Product, parameter: Parameter) -> None:
        if parameter.shape and product.parameter_shape != parameter.shape:
            self._wrong.append(f"{name} {list(product.parameter_shape)} against {list(parameter.shape)}")

    def _pieces(self, parameter: str) -> dict[str, tuple[Piece, ...]]:
        """Return the pieces of a parameter by stored tensor; none where a tensor is the parameter as it is."""
        architecture = self._architecture
        found = {}
        for tensor in architecture.holders.get(parameter, ()):
            pieces = tuple(one for one in architecture.stored[tensor] if one.parameter == parameter)
            found[tensor] = () if architecture.parameter_of(tensor) == parameter else pieces
        return found or {self.tensor(parameter): ()}

    def _add_product(self, parameter: str, product: Product, factors: Factors) -> None:
        self._products[parameter] = product
        for tensor, parts in self._pieces(parameter).items():
            if factors.magnitude is not None and parts:
                raise VectorError(f"{self._adapter.path} has DoRA on {parameter}, which is stored in parts", MERGE)
            if factors.magnitude is not None:
                entry = self.trained_on(f"{factors.module}.weight", factors.a)
                self.add(tensor, Dora(product, factors.magnitude, entry))
            elif not parts:
                self.add(tensor, product)
            else:
                self._add_pieces(tensor, [replace(product, piece=piece) for piece in parts])

    def _add_pieces(self, tensor: str, products: Sequence[Product]) -> None:
        """Take products that are parts of a stored tensor, beside those of other parameters in it."""
        shape = self._base.tensors[tensor].shape
        if len(self._architecture.stored[tensor]) == 1:
            self.add(tensor, products[0])
            return
        if len(shape) != 2:
            raise VectorError(f"{self._adapter.path} moves a part of {tensor} only, which has {len(shape)} axes", MERGE)
        before = self._parts.get(tensor)
        self._parts[tensor] = Stack(shape, (*(before.products if isinstance(before, Stack) else ()), *products))

    def _add_parameters(self, module: str, spelled: str, names: list[str], pairs: list[Factors]) -> None:
        """Take the factors of parameters; PEFT wraps the one that its module registers last outermost."""
        if len(names) != len(pairs):
            raise VectorError(
                f"{self._adapter.path} has {len(pairs)} pairs of factors for {module}, and target_parameters names "
                f"{len(names)} of its parameters ({', '.join(names)})",
                "Save the adapter again with PEFT: configuration and weights do not belong together.",
            )
        for pair, name, is_turned in self._told_apart(module, spelled, names, pairs):
            whole = f"{spelled}.{name}"
            parameter = self._architecture.parameters[whole]
            experts = _experts(parameter)
            if not experts or pair.a.shape[0] % experts:
                raise MismatchError(
                    f"{pair.a.name} of {self._adapter.path} has {pair.a.shape[0]} rows for {experts} experts",
                    "Apply the adapter to the model it was trained on.",
                )
            scale = scale_of(self._adapter, f"{module}.{name}", pair.a.shape[0] // experts)
            product = Product(pair.a, pair.b, scale, is_turned, experts)
            self._check_shape(whole, product, parameter)
            self._add_product(whole, product, pair)

    def _told_apart(
        self, module: str, spelled: str, names: list[str], pairs: list[Factors]
    ) -> list[tuple[Factors, str, bool]]:
        """Return each pair with its parameter, and whether that is in x out; by their shapes where that is guessed."""
        parameters = {name: self._architecture.parameters[f"{spelled}.{name}"] for name in names}
        if self._architecture.model_class:
            turned = (bool(parameters[name].is_transposed) for name in reversed(names))
            return list(zip(pairs, reversed(names), turned, strict=True))
        fits = []
        for order in permutations(names):
            found = [
                (pair, name, turn)
                for pair, name in zip(pairs, order, strict=True)
                for turn in (False, True)
                if Product(pair.a, pair.b, 1.0, turn, _experts(parameters[name])).parameter_shape
                == parameters[name].shape
            ]
            fits += [found] if len(found) == len(names) == len({name for _, name, _ in found}) else []
        if len(fits) != 1:
            raise VectorError(
                f"the factors of {module} in {self._adapter.path} cannot be told to belong to its parameters "
                f"({', '.join(names)}) in {self._base.path}",
                "Apply it to the model it was trained on, or merge it with PEFT and use the merged model folder.",
            )
        return fits[0]

    def settle(self) -> Placement:
        """Let tied tensors have one delta."""
        if self._wrong:
            raise MismatchError(
                f"{len(self._wrong)} targets of adapter {self._adapter.path} have another shape in {self._base.path}: "
                f"{name_some(self._wrong)}",
                "Apply the adapter to the model it was trained on.",
            )
        parts, tied, remarks = settle_ties(self._adapter, self._architecture, self._base, self._parts)
        return Placement(parts, tied, self._products, self._architecture, (*self._remarks, *remarks))


def _experts(parameter: Parameter) -> int:
    return parameter.shape[0] if len(parameter.shape) == 3 else 1
