"""How far a lossy vector is from what it stands for."""

from __future__ import annotations

import pytest

from taskarith.vectors.codecs.error import Loss


def test_errors_are_roots_of_shares_of_the_squares():
    loss = Loss.of(
        {
            "a": {"kept": 3, "error_squares": 1.0, "squares": 4.0},
            "b": {"kept": 2, "error_squares": 0.0, "squares": 12.0},
        }
    )
    assert (loss.kept, loss.energy, loss.error) == (5, 1 - 1 / 16, 0.25)
    assert (loss.worst, loss.worst_error, loss.errors) == ("a", 0.5, {"a": 0.5, "b": 0.0})


@pytest.mark.parametrize("found", [{}, {"a": {"squares": 0.0}}])
def test_what_is_empty_has_no_error(found):
    loss = Loss.of(found)
    assert (loss.kept, loss.energy, loss.error, loss.worst_error) == (0, 1.0, 0.0, 0.0)
