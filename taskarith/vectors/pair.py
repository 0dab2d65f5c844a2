"""A fine-tuned checkpoint against its base: which tensors correspond, and their deltas on the fly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import FLOAT_DTYPES, TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import MismatchError, name_some
from taskarith.vectors.buffers import is_buffer
from taskarith.vectors.one_sided import Alone, check_whole, one_sided
from taskarith.vectors.vector import BaseRecord, Difference
from taskarith.vectors.vocabulary import differ_in_rows, is_vocabulary, last_rows, token_rows

__all__ = ["PairVector", "Pairing", "find_tied", "pair_checkpoints"]

_PIECE = 1 << 20


@dataclass(frozen=True)
class Pairing:
    """How the tensors of a fine-tune correspond to those of its base.

    :param floats: Tensors to subtract, in the order of the base.
    :param others: Integer and boolean tensors, found to be equal on both sides.
    :param tied: Tensors that only one side stores, mapped to the tensor of both sides whose bits they repeat there.
    :param ignored: Buffers that only one side stores and that were to be left out.
    """

    floats: tuple[str, ...]
    others: tuple[str, ...]
    tied: dict[str, str]
    ignored: tuple[str, ...] = ()


def pair_checkpoints(
    base: Checkpoint, finetuned: Checkpoint, *, shared_vocabulary: bool = False, ignore_buffers: bool = False
) -> Pairing:
    """Match two checkpoints tensor by tensor.

    A tensor on one side only is accepted when it repeats, bit for bit on that side, a tensor with a row for each token
    that both have: a tied head that one of them stores and the other does not; see ``find_tied``.

    :param base: The base checkpoint.
    :param finetuned: The fine-tuned checkpoint.
    :param shared_vocabulary: Accept vocabularies of different sizes.
    :param ignore_buffers: Leave out buffers that only one side has; see ``buffers.is_buffer``.
    :raises MismatchError: Names on one side only, shapes that differ, tensors of the fine-tune that are not whole, a
        float against an integer tensor, or integer tensors that differ.
    """
    for side in (base, finetuned):
        if side.scalings:
            raise MismatchError(
                f"{side.path} is stored as float8 with scales: differences of it would be mostly rounding",
                "Take the vector from the models before quantisation; it can be applied to the float8 one.",
            )
    for side, other in ((finetuned, base), (base, finetuned)):
        check_whole(side, {name: entry.shape for name, entry in other.tensors.items()}, str(other.path))
    common = [name for name in base.tensors if name in finetuned.tensors]
    with TensorReader() as reader:
        tied = find_tied(base, set(common), reader, lambda name: reader.fingerprint(finetuned.tensors[name]))
        tied |= find_tied(finetuned, set(common), reader)
        ignored = _pair_names(base, finetuned, tied, ignore_buffers, reader)
        _check_shapes(base, finetuned, common, shared_vocabulary)
        floats = tuple(name for name in common if base.tensors[name].is_float)
        others = tuple(name for name in common if not base.tensors[name].is_float)
        odd = [
            name
            for name in others
            if reader.fingerprint(base.tensors[name]) != reader.fingerprint(finetuned.tensors[name])
        ]
    if odd:
        raise _differ(base, finetuned, odd)
    return Pairing(floats, others, tied, ignored)


class PairVector:
    """``finetuned - base``, subtracted in float64 while it is read; ``new_rows`` are those that the base lacks.

    :param base: The base checkpoint.
    :param finetuned: The fine-tuned checkpoint.
    :param record: The base as provenance.
    :param shared_vocabulary: Where the vocabularies differ in size, the vector has the rows that both have.
    :param ignore_buffers: Leave out buffers that only one of the two has.
    :raises MismatchError: The two do not correspond.
    """

    kind: str = "finetuned"
    remarks: tuple[str, ...] = ()

    def __init__(
        self,
        base: Checkpoint,
        finetuned: Checkpoint,
        record: BaseRecord,
        *,
        shared_vocabulary: bool = False,
        ignore_buffers: bool = False,
    ) -> None:
        pairing = pair_checkpoints(base, finetuned, shared_vocabulary=shared_vocabulary, ignore_buffers=ignore_buffers)
        self.name = str(finetuned.path)
        self.files: tuple[Path, ...] = tuple(
            {tensor.path for side in (base, finetuned) for tensor in side.tensors.values()}
        )
        self.base: BaseRecord | None = record
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: min(base.tensors[name].shape, finetuned.tensors[name].shape) for name in pairing.floats
        }
        self.known: frozenset[str] | None = frozenset(pairing.floats + pairing.others + pairing.ignored)
        self.ignored = pairing.ignored
        self.tied: Mapping[str, str] = {name: to for name, to in pairing.tied.items() if name in base.tensors}
        self.new_rows: Mapping[str, TensorEntry] = {
            name: last_rows(finetuned.tensors[name], shape[0])
            for name, shape in self.shapes.items()
            if shape != finetuned.tensors[name].shape
        }
        self._base, self._finetuned = base.tensors, finetuned.tensors

    def delta(self, tensor: str) -> Difference:
        """Return the two tensors that are subtracted."""
        return Difference(self._finetuned[tensor], self._base[tensor])


def find_tied(
    side: Checkpoint, common: set[str], reader: TensorReader, moved: Callable[[str], str] | None = None
) -> dict[str, str]:
    """Map each tensor of a checkpoint that is not in ``common`` to one in ``common`` that it is tied to.

    Equal bits alone do not make a tie: the two have a row for each token, as embeddings and heads have, and the rows
    are not all the same, as in a matrix of zeros.

    :param side: The checkpoint.
    :param common: Names that another one has, too.
    :param reader: Reads tensors.
    :param moved: Gives for a tensor of ``common`` what tells whether two of them move alike; of several that have the
        bits all must, for otherwise nobody knows which of them is repeated.
    """
    rows = token_rows(side)
    floats = [entry for entry in side.tensors.values() if entry.is_float and entry.shape and entry.shape[0] in rows]
    found = {}
    for entry in (one for one in floats if one.name not in common):
        like = [one for one in floats if one.name in common and (one.shape, one.dtype) == (entry.shape, entry.dtype)]
        fingerprint = reader.fingerprint(entry) if like else ""
        copies = [one.name for one in like if reader.fingerprint(one) == fingerprint]
        if not copies or _is_constant(entry, reader):
            continue
        if moved is None or len(copies) == 1 or len({moved(name) for name in copies}) == 1:
            found[entry.name] = copies[0]
    return found


def _is_constant(entry: TensorEntry, reader: TensorReader) -> bool:
    """Tell whether all rows of a tensor are the same."""
    import numpy as np  # late: numpy takes a third of the time that a small edit needs

    from taskarith.arithmetic.encoding import decode

    size = entry.nbytes // max(entry.shape[0], 1)
    first = decode(reader.read(entry, 0, size), entry.dtype)
    for piece in reader.pieces(entry, size * max(1, _PIECE // max(size, 1))):
        values = decode(piece, entry.dtype)
        if not np.array_equal(values, np.tile(first, len(values) // max(len(first), 1)), equal_nan=True):
            return False
    return True


def _pair_names(
    base: Checkpoint, finetuned: Checkpoint, tied: Mapping[str, str], ignore_buffers: bool, reader: TensorReader
) -> tuple[str, ...]:
    """Return the buffers that only one side has; refuse everything else that only one side has."""
    sides = [
        _alone(base, finetuned, tied, ignore_buffers, reader),
        _alone(finetuned, base, tied, ignore_buffers, reader),
    ]
    if any(one.wrong for one in sides):
        raise one_sided(*sides, reader)
    return tuple(name for one in sides for name in one.buffers)


def _alone(
    side: Checkpoint, other: Checkpoint, tied: Mapping[str, str], ignore_buffers: bool, reader: TensorReader
) -> Alone:
    names = [name for name in side.tensors if name not in other.tensors and name not in tied]
    buffers = {name: is_buffer(side.tensors[name], reader) for name in names}
    kinds = (tuple(name for name in names if buffers[name] is wanted) for wanted in (False, True))
    return Alone(side, other, *kinds, is_lenient=ignore_buffers)


def _differ(base: Checkpoint, finetuned: Checkpoint, names: list[str]) -> MismatchError:
    dtypes = {base.tensors[name].dtype for name in names}
    if all(dtype == "BOOL" or dtype[0] in "IU" for dtype in dtypes):
        return MismatchError(
            f"{len(names)} integer tensors differ between {base.path} and {finetuned.path}: {name_some(names)}",
            "Integers have no task vector; use models whose buffers agree.",
        )
    shown = [f"{name} ({base.tensors[name].dtype})" for name in names]
    return MismatchError(
        f"{len(names)} tensors of dtypes that cannot be subtracted differ between {base.path} and {finetuned.path}: "
        f"{name_some(shown)}",
        f"Use models whose weights are {', '.join(FLOAT_DTYPES)}, such as those before quantisation.",
    )


def _check_shapes(base: Checkpoint, finetuned: Checkpoint, common: list[str], shared_vocabulary: bool) -> None:
    sides = [(name, base.tensors[name], finetuned.tensors[name]) for name in common]
    kinds = [f"{name} ({a.dtype} and {b.dtype})" for name, a, b in sides if a.is_float != b.is_float]
    if kinds:
        raise MismatchError(
            f"{len(kinds)} tensors are floats on one side and not on the other: {name_some(kinds)}",
            "Save both models with plain float weights.",
        )
    differ = [name for name in common if base.tensors[name].shape != finetuned.tensors[name].shape]
    is_grown = [
        differ_in_rows(base.tensors[name].shape, finetuned.tensors[name].shape)
        and is_vocabulary(base, name)
        and is_vocabulary(finetuned, name)
        for name in differ
    ]
    if differ and not (shared_vocabulary and all(is_grown)):
        shapes = [
            f"{name} {list(base.tensors[name].shape)} against {list(finetuned.tensors[name].shape)}" for name in differ
        ]
        raise MismatchError(
            f"{len(shapes)} tensors of {base.path} and {finetuned.path} differ in shape: {name_some(shapes)}",
            "Only the vocabulary differs: --vocab intersection, an option of apply and extract, takes the rows that "
            "both have, --vocab union also those that only the fine-tune has."
            if all(is_grown)
            else "This is another base.",
        )
