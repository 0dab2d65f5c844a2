"""Errors: two lines that a terminal can show, an exit code, and a way between processes."""

from __future__ import annotations

import pickle

import pytest

from taskarith import errors
from taskarith.errors import ReadError, TaskarithError, UsageError, escaped_lines, name_some, readable


def test_an_error_is_its_message_and_its_hint():
    error = UsageError("what\nis wrong", "what to do")
    assert str(error) == "what\\nis wrong\nwhat to do"
    assert (error.exit_code, ReadError("a", "b").exit_code) == (2, 1)


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_every_error_travels_between_processes(name):
    error = pickle.loads(pickle.dumps(getattr(errors, name)("a", "b")))  # noqa: S301
    assert isinstance(error, TaskarithError)
    assert (type(error).__name__, error.message, error.hint) == (name, "a", "b")


def test_names_are_counted_beyond_the_first_few():
    assert name_some(["a", "b"]) == "a, b"
    assert name_some(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert name_some(list("abc"), 1) == "a and 2 more"
    assert len(name_some(["x" * 1000])) < 150


def test_what_is_quoted_is_cut_and_escaped():
    assert readable("plain ä") == "plain ä"
    assert readable("a\x1b[2J\ud800\u202e") == "a\\x1b[2J\\ud800\\u202e"
    cut = readable("b" + "x" * 5000 + "e")
    assert len(cut) < 1100
    assert (cut[0], cut[-1]) == ("b", "e")
    assert escaped_lines("a\tb\nc\x07") == "a       b\nc\\x07"
