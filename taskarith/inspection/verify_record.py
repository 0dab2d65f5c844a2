"""What `verify` takes from the record of an edit; it is read in one place, where what somebody has changed is named."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.checkpoints.resolve import hub_name
from taskarith.edit.recipe import read_operand
from taskarith.errors import CheckpointError
from taskarith.merging.methods import Method, parse_method
from taskarith.spec import OperandRef, Scales, parse_scales
from taskarith.vectors.extract import VECTOR_DTYPES
from taskarith.vectors.vocabulary import check_vocab

__all__ = ["RecordedEdit", "broken_record", "read_edit", "read_prints"]


@dataclass(frozen=True)
class RecordedEdit:
    """An edit as its output records it.

    :param model: What was edited, as ``resolve_model`` takes it.
    :param model_fingerprint: Of all its tensors.
    :param bases: Fingerprint of each of them.
    :param references: The operands, with their fingerprints.
    :param alpha: Multiplies all coefficients.
    :param scale: Multiplies them tensor by tensor.
    :param method: How they were merged.
    :param dtype: Of the output, as safetensors names it; None is the model's own.
    :param vocab: As for ``apply``.
    :param ignore_buffers: Likewise.
    """

    model: str
    model_fingerprint: str
    bases: Mapping[str, str]
    references: tuple[OperandRef, ...]
    alpha: float
    scale: Scales
    method: Method
    dtype: str | None
    vocab: str | None
    ignore_buffers: bool


def read_prints(place: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprint of each tensor of an output.

    :raises CheckpointError: The record is broken.
    """
    with broken_record(place):
        return {name: str(tensor["fingerprint"]) for name, tensor in record["tensors"].items()}


def read_edit(place: Path, record: Mapping[str, Any]) -> RecordedEdit:
    """Read the edit from the record of an output.

    :raises CheckpointError: The record is broken.
    :raises UsageError: A value in it is out of range, or of another release.
    """
    with broken_record(place):
        dtype, vocab = record.get("dtype"), record.get("vocab")
        if dtype not in {None, *VECTOR_DTYPES.values()}:
            raise ValueError(f"dtype {dtype!r}")
        check_vocab(vocab)
        return RecordedEdit(
            model=hub_name(record["base"]),
            model_fingerprint=str(record["base"]["fingerprint"]),
            bases={name: str(tensor.get("base")) for name, tensor in record["tensors"].items()},
            references=tuple(read_operand(operand) for operand in record["operands"]),
            alpha=float(record["alpha"]),
            scale=parse_scales(record.get("scale", {})),
            method=parse_method(**record.get("method", {})),
            dtype=dtype,
            vocab=vocab,
            ignore_buffers=bool(record.get("ignore_buffers", False)),
        )


@contextmanager
def broken_record(place: Path) -> Generator[None, None, None]:
    """Say of a value that is missing or of another type that somebody has changed the record."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"the record of {place} is broken: {error!r}", "Restore it from where it came."
        ) from error
