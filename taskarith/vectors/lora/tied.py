"""Parts of an adapter for tensors that are tied: they get one delta, or the adapter is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskarith.architecture.layout import Architecture
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import VectorError, name_some
from taskarith.vectors.lora.parts import Dora, Part, Product, Rows, Saved, load_values
from taskarith.vectors.lora.read import Adapter
from taskarith.vectors.ties import tied_tensors

__all__ = ["settle_ties"]


def settle_ties(
    adapter: Adapter, architecture: Architecture, base: Checkpoint, parts: Mapping[str, Part]
) -> tuple[dict[str, Part], dict[str, str], list[str]]:
    """Let tied tensors have one delta: that of whichever is targeted.

    :param parts: By stored tensor, those of tied ones included.
    :returns: The parts; tensors that repeat another one, mapped to it; what the user should know.
    :raises VectorError: The adapter says different things of tied tensors.
    """
    settled, tied, remarks = dict(parts), {}, []
    with TensorReader() as reader:
        groups = tied_tensors(base, architecture, reader, settled)
    for source, others in groups.items():
        claims = {name: settled[name] for name in (source, *others) if name in settled}
        _check_sides(adapter, base, (source, *others), claims)
        sides = list(claims.values())
        if len(sides) == 1 and isinstance(sides[0], Product | Dora):
            remarks.append(
                f"{adapter.path} was trained on one of {source} and {' and '.join(others)}, which are tied: all of "
                "them move, as with PEFT's merge_and_unload; PEFT's model before merging moves that one only"
            )
        for name in others:
            settled.pop(name, None)
        settled[source] = sides[0]
        tied |= {name: source for name in others if name in base.tensors}
    return settled, tied, remarks


def _check_sides(adapter: Adapter, base: Checkpoint, names: Sequence[str], sides: Mapping[str, Part]) -> None:
    untie = "Untie the model first: save it with tie_word_embeddings=False and both tensors."
    saved = [name for name, side in sides.items() if isinstance(side, Saved)]
    is_same = _is_same(list(sides.values()))
    if saved and not is_same:
        rest = [name for name in names if name not in saved]
        raise VectorError(
            f"{adapter.path} saves {saved[0]} as a module of its own (modules_to_save), but "
            f"{base.path} has it tied to {name_some(rest or names[1:])}",
            untie,
        )
    if len(sides) > 1 and not is_same:
        raise VectorError(
            f"{adapter.path} says different things of {names[0]} and {' and '.join(names[1:])}, which are tied",
            untie,
        )


def _is_same(sides: Sequence[Part]) -> bool:
    """Tell whether both sides say the same: the same tensor, or each other's factors transposed (weight tying)."""
    if len(sides) != 2:
        return False
    first, second = sides
    whole = isinstance(first, Saved) and isinstance(second, Saved)
    rows = isinstance(first, Rows) and isinstance(second, Rows) and first.numbers == second.numbers
    if whole or rows:
        with TensorReader() as reader:
            return reader.fingerprint(first.entry) == reader.fingerprint(second.entry)
    if not isinstance(first, Product) or not isinstance(second, Product) or first.shape != second.shape:
        return False
    (one, _), (other, _) = first.low_rank(load_values), second.low_rank(load_values)
    pairs = ((one.left, other.left), (one.right, other.right))
    return one.scale == other.scale and all(a.shape == b.shape and bool((a == b).all()) for a, b in pairs)
