"""The kernels for those who can do without: where they cannot be had, or not yet, there are none."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from taskarith.arithmetic.kernels import available
from taskarith.arithmetic.kernels import compile as compiled
from taskarith.arithmetic.kernels.available import address, load_or_none


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(available, "_found", {})


def test_kernels_are_those_that_calculators_use():
    assert load_or_none("exact") is load_or_none("exact") is compiled.load_kernels("exact")


@pytest.mark.parametrize("error", [compiled.NowhereToKeepError("full"), RuntimeError("no LLVM for this machine")])
def test_without_a_place_to_keep_them_there_are_none(monkeypatch, error):
    calls = []

    def fail(group, *, wait):
        calls.append(wait)
        raise error

    monkeypatch.setattr(compiled, "load_kernels", fail)
    assert load_or_none("exact") is load_or_none("exact") is None
    assert calls == [False]


def test_what_is_being_compiled_is_asked_for_again(monkeypatch):
    answers = [compiled.NotYetError("half a minute"), "kernels"]

    def load(group, *, wait):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(compiled, "load_kernels", load)
    assert [load_or_none("exact") for _ in range(3)] == [None, "kernels", "kernels"]


def test_without_numba_there_are_none_and_other_failures_are_not_hidden(monkeypatch):
    monkeypatch.setattr(compiled, "load_kernels", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        load_or_none("exact")
    monkeypatch.setitem(sys.modules, "taskarith.arithmetic.kernels.compile", None)
    assert load_or_none("exact") is None


def test_addresses_are_of_float64_in_one_piece():
    values = np.zeros((4, 4))
    assert address(values) == values.ctypes.data
    for other in (values.astype(np.float32), values[:, ::2], values.T[1:]):
        with pytest.raises(AssertionError, match="float64"):
            address(other)
