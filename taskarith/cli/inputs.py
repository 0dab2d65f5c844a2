"""Names of inputs are looked at first: torch and transformers take seconds to import, a mistyped name none."""

from __future__ import annotations

from collections.abc import Iterable

from taskarith.spec import parse_operand

__all__ = ["check_inputs"]


def check_inputs(models: Iterable[str | None], data: Iterable[str | None] = (), vectors: Iterable[str] = ()) -> None:
    """Refuse an input that is not on this machine, nor named like one on the hub; others are checked when opened.

    :param models: As the user named them; None for those that are not given.
    :param data: Likewise, without names of their own.
    :param vectors: Each with what may follow it.
    :raises CheckpointError: A model is missing.
    :raises DataError: A data set is.
    :raises VectorError: A vector is.
    :raises UsageError: One cannot be read.
    """
    from taskarith.checkpoints.resolve import check_model
    from taskarith.data.load import check_data
    from taskarith.vectors.locate import check_vector

    operands = [parse_operand(text) for text in vectors]
    for spec in (one for one in data if one is not None):
        check_data(spec)
    for model in (one for one in [*models, *(operand.base or None for operand in operands)] if one is not None):
        check_model(model)
    for operand in operands:
        check_vector(operand.name)
