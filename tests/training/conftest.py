"""Fixtures of trainings of a second."""

from __future__ import annotations

from finetuning import (  # noqa: F401  (by their names)
    one_thread_fixture,
    other_fixture,
    ragged_fixture,
    run_on_two_fixture,
    text_fixture,
    tuned_fixture,
)
