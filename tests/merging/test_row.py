"""A row of the table of methods: coefficients that it is not defined for are refused, and its operator is found."""

from __future__ import annotations

import pytest

from taskarith.errors import UsageError
from taskarith.merging.methods import METHODS
from taskarith.merging.row import MethodRow, between_two, of_several, weighted_mean


@pytest.mark.parametrize(
    ("check", "allowed", "refused"),
    [
        (between_two, [[0.7, 0.3], [0.0, 1.0]], [[1.0], [1.0, -0.1], [0.0, 0.0], [0.2, 0.3, 0.5]]),
        (of_several, [[1.0, -1.0], [0.0, 2.0, 3.0]], [[1.0], [0.0, 1.0], [0.0, 0.0, 0.0]]),
        (weighted_mean, [[0.5, 0.5], [0.0, 2.0, 3.0]], [[1.0], [0.0, 1.0], [1.0, 1.0, -1e-9]]),
    ],
)
def test_coefficients_that_a_method_is_not_defined_for_are_refused_by_its_name(check, allowed, refused):
    for coefficients in allowed:
        check("mean", coefficients)
    for coefficients in refused:
        with pytest.raises(UsageError, match=r"^mean ") as caught:
            check("mean", coefficients)
        assert "--add" in caught.value.hint


def test_every_row_finds_its_operator_and_names_its_source():
    for name, row in METHODS.items():
        assert (name == "linear") == (not row.operator)
        assert row.source.startswith("arXiv:") or row.source.rpartition(" ")[2].isdigit()
        assert name == "linear" or callable(row.load())
    with pytest.raises(AttributeError, match="Sorcery"):
        MethodRow("sce.Sorcery", "").load()
